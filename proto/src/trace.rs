//! Which trace a call belongs to: W3C Trace Context (<https://www.w3.org/TR/trace-context/>), Level 1, and of Level 2 the
//! flag that the trace id is random.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use tonic::metadata::MetadataMap;

/// The name of the metadata, or of the header, that carries the ids.
pub const TRACEPARENT: &str = "traceparent";
/// The name of the metadata, or of the header, that carries what tracing systems know of their own.
pub const TRACESTATE: &str = "tracestate";

/// Length of a `traceparent` of version 00, in bytes.
const TRACEPARENT_BYTES: usize = 55;
/// Sampled, and: the trace id is random. All other flags mean nothing yet, and are not passed on.
const FLAGS: u8 = 0b11;
const SAMPLED: u8 = 0b01;
/// Longest `tracestate` that is passed on, in bytes. Of a longer one the last members are left out.
const TRACESTATE_BYTES_MAX: usize = 512;
/// Most members of a `tracestate`.
const MEMBERS_MAX: usize = 32;
/// Longest key and longest value of a member, in bytes.
const KEY_BYTES_MAX: usize = 256;
const VALUE_BYTES_MAX: usize = 256;

/// The id of a trace: 16 bytes, not all of them zero. Shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// The id of a span: 8 bytes, not all of them zero. Shown as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

macro_rules! id {
    ($id:ident, $bytes:literal) => {
        impl $id {
            /// `None`: all zero, which no id is.
            pub fn new(bytes: [u8; $bytes]) -> Option<Self> {
                (bytes != [0; $bytes]).then_some($id(bytes))
            }

            /// Its bytes.
            pub fn to_bytes(self) -> [u8; $bytes] {
                self.0
            }

            fn parse(text: &[u8]) -> Option<Self> {
                $id::new(hex(text)?)
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}
id!(TraceId, 16);
id!(SpanId, 8);

/// Lower case only, as the standard wants it.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |letter: u8| match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// A place in a trace: whoever is called with it is a child of this span. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: TraceId,
    span_id: SpanId,
    flags: u8,
    state: Option<Arc<str>>,
}

impl TraceContext {
    /// Begins to describe a place: without `tracestate`. `sampled`: whether its spans are recorded.
    pub fn new(trace_id: TraceId, span_id: SpanId, sampled: bool) -> Self {
        TraceContext { trace_id, span_id, flags: u8::from(sampled), state: None }
    }

    /// Reads the two headers; an empty `tracestate` is none. `None`: `traceparent` is not as the standard says, and is to be
    /// taken for absent. A `tracestate` that is not is left out. Of a version later than 00, what 00 has is read.
    pub fn parse(traceparent: &str, tracestate: &str) -> Option<Self> {
        let text = traceparent.as_bytes();
        let [version] = hex(text.get(..2)?)?;
        let ends_well = match version {
            0 => text.len() == TRACEPARENT_BYTES,
            u8::MAX => false,
            _ => text.get(TRACEPARENT_BYTES).is_none_or(|next| *next == b'-'),
        };
        let hyphens = [2, 35, 52].iter().all(|at| text.get(*at) == Some(&b'-'));
        if !ends_well || !hyphens {
            return None;
        }
        let trace_id = TraceId::parse(text.get(3..35)?)?;
        let span_id = SpanId::parse(text.get(36..52)?)?;
        let [flags] = hex(text.get(53..TRACEPARENT_BYTES)?)?;
        Some(TraceContext { trace_id, span_id, flags: flags & FLAGS, state: state(tracestate) })
    }

    /// That of a request, or of whatever else has metadata. `None`: it has none, or a malformed one.
    pub fn of(metadata: &MetadataMap) -> Option<Self> {
        let mut parents = metadata.get_all(TRACEPARENT).iter();
        let (parent, None) = (parents.next()?, parents.next()) else { return None };
        // Split over several headers it means the same.
        let states = metadata.get_all(TRACESTATE).iter().map(|value| value.to_str().ok());
        let state = states.collect::<Option<Vec<_>>>().unwrap_or_default().join(",");
        Self::parse(parent.to_str().ok()?, &state)
    }

    /// Has a request carry it, in place of another.
    pub fn add_to(&self, metadata: &mut MetadataMap) {
        metadata.remove(TRACESTATE);
        if let Ok(parent) = self.traceparent().parse() {
            metadata.insert(TRACEPARENT, parent);
        }
        if let Some(Ok(state)) = self.state.as_ref().map(|state| state.parse()) {
            metadata.insert(TRACESTATE, state);
        }
    }

    /// Another span of the same trace.
    pub fn with_span(&self, span_id: SpanId, sampled: bool) -> Self {
        let flags = self.flags & !SAMPLED | u8::from(sampled);
        TraceContext { span_id, flags, ..self.clone() }
    }

    /// The trace.
    pub fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    /// The span that calls.
    pub fn span_id(&self) -> SpanId {
        self.span_id
    }

    /// The bits that the standard has a meaning for.
    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// Whether whoever began the trace has it recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The header of this name.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace_id, self.span_id, self.flags)
    }

    /// The header of this name; empty: none.
    pub fn tracestate(&self) -> &str {
        self.state.as_deref().unwrap_or_default()
    }
}

/// What is passed on of a `tracestate`. `None`: nothing, because it is empty or malformed.
fn state(text: &str) -> Option<Arc<str>> {
    let members =
        text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|one| !one.is_empty());
    let (mut keys, mut kept) = (HashSet::new(), String::new());
    for member in members {
        let (key, value) = member.split_once('=')?;
        if !is_key(key) || !is_value(value) || !keys.insert(key) || keys.len() > MEMBERS_MAX {
            return None;
        }
        let comma = usize::from(!kept.is_empty());
        if kept.len() + comma + member.len() <= TRACESTATE_BYTES_MAX {
            kept.push_str(&","[..comma]);
            kept.push_str(member);
        }
    }
    (!kept.is_empty()).then(|| kept.into())
}

fn is_key(key: &str) -> bool {
    let begins = key.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit());
    let goes_on =
        |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || b"_-*/@".contains(&letter);
    begins && key.len() <= KEY_BYTES_MAX && key.bytes().all(goes_on)
}

fn is_value(value: &str) -> bool {
    let fits = |letter: u8| (b' '..=b'~').contains(&letter) && letter != b'=';
    !value.is_empty() && value.len() <= VALUE_BYTES_MAX && value.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn parent(flags: &str) -> String {
        format!("00-{TRACE}-{SPAN}-{flags}")
    }

    #[test]
    fn reads_and_writes_the_same() {
        for flags in ["00", "01", "02", "03"] {
            let context = TraceContext::parse(&parent(flags), "").unwrap();
            assert_eq!(context.traceparent(), parent(flags));
            assert_eq!(context.is_sampled(), flags == "01" || flags == "03");
            assert_eq!(
                (context.trace_id().to_string(), context.span_id().to_string()),
                (TRACE.into(), SPAN.into())
            );
        }
        let unknown = TraceContext::parse(&parent("ff"), "").unwrap();
        assert_eq!(unknown.traceparent(), parent("03"), "flags without a meaning are not passed on");
    }

    #[test]
    fn malformed_ids_are_as_if_absent() {
        let zero_trace = format!("00-{}-{SPAN}-01", "0".repeat(32));
        let zero_span = format!("00-{TRACE}-{}-01", "0".repeat(16));
        let bad = [
            "",
            "00",
            TRACE,
            &zero_trace,
            &zero_span,
            &parent("01").to_uppercase(),
            &parent("0"),
            &parent("0g"),
            &parent("01-"),
            &parent("01-more"),
            &format!(" {}", parent("01")),
            &parent("01").replace('-', "_"),
            &parent("01").replacen("00-", "ff-", 1),
            &parent("01").replacen("00-", "0-", 1),
            &format!("00-{}é-{SPAN}-01", &TRACE[2..]),
            &format!("cc-{TRACE}-{SPAN}-01.more"),
        ];
        for text in bad {
            assert_eq!(TraceContext::parse(text, "a=1"), None, "{text}");
        }
    }

    #[test]
    fn of_later_versions_what_this_one_has_is_read() {
        for text in [format!("cc-{TRACE}-{SPAN}-01"), format!("cc-{TRACE}-{SPAN}-01-what-will-be")] {
            assert_eq!(TraceContext::parse(&text, "").unwrap().traceparent(), parent("01"));
        }
    }

    #[test]
    fn the_state_is_passed_on_as_far_as_it_is_well_formed() {
        let kept = |text: &str| TraceContext::parse(&parent("01"), text).unwrap().tracestate().to_owned();
        for text in ["congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", "1@a-b_c*d/e= !~<>", "a=b c"] {
            assert_eq!(kept(text), text);
        }
        assert_eq!(kept(" a=1 ,,\tb=2,"), "a=1,b=2");
        let many = |count| (0..count).map(|number| format!("k{number}=1")).collect::<Vec<_>>().join(",");
        assert_eq!(kept(&many(32)), many(32));
        let long_key = format!("{}=1", "k".repeat(257));
        let long_value = format!("k={}", "v".repeat(257));
        for text in
            ["a", "a=", "=1", "A=1", "a=1=2", "a=1,a=2", "a=é", "a=\u{7f}", &many(33), &long_key, &long_value]
        {
            assert_eq!(kept(text), "", "{text}");
        }
    }

    #[test]
    fn a_long_state_is_cut_between_members() {
        let member = |key: char| format!("{key}={}", "v".repeat(253));
        let text = format!("{},{},{}", member('a'), member('b'), member('c'));
        let context = TraceContext::parse(&parent("01"), &text).unwrap();
        assert_eq!(context.tracestate(), format!("{},{}", member('a'), member('b')));
        assert_eq!(context.tracestate().len(), 511);
    }

    #[test]
    fn metadata_carries_it() {
        let mut metadata = MetadataMap::new();
        assert_eq!(TraceContext::of(&metadata), None);
        let context = TraceContext::parse(&parent("01"), "a=1,b=2").unwrap();
        context.add_to(&mut metadata);
        assert_eq!(TraceContext::of(&metadata), Some(context.clone()));
        // Over several headers.
        metadata.insert(TRACESTATE, "a=1".parse().unwrap());
        metadata.append(TRACESTATE, "b=2".parse().unwrap());
        assert_eq!(TraceContext::of(&metadata), Some(context.clone()));
        let other = TraceContext::new(context.trace_id(), SpanId::new([7; 8]).unwrap(), false);
        other.add_to(&mut metadata);
        assert_eq!(TraceContext::of(&metadata), Some(other));
        // Two parents are none.
        metadata.append(TRACEPARENT, parent("01").parse().unwrap());
        assert_eq!(TraceContext::of(&metadata), None);
    }

    #[test]
    fn another_span_of_the_trace_keeps_all_else() {
        let context = TraceContext::parse(&parent("03"), "a=1").unwrap();
        let child = context.with_span(SpanId::new([1; 8]).unwrap(), false);
        assert_eq!(child.traceparent(), format!("00-{TRACE}-{}-02", "01".repeat(8)));
        assert_eq!(child.tracestate(), "a=1");
    }
}
