//! The TOML file.

use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::error::quoted;
use super::keys::{self, RESOURCE, RESOURCE_KEYS};
use super::load::{Draft, Origin, Raw, ResourceDraft};
use super::nearest::nearest;

/// Most `[[resource]]` tables.
const RESOURCES_MAX: usize = 1000;

/// Reads `text` into `draft`; `name` stands for the file in errors and origins.
pub(super) fn read(text: &str, name: &str, draft: &mut Draft) {
    let source = Source { text, name: Arc::from(name) };
    match DeTable::parse(text) {
        Ok(document) => source.document(document.get_ref(), draft),
        Err(error) => {
            let origin = source.origin(error.span().unwrap_or_default());
            draft.problem(origin, error.message().trim().replace('\n', "; "));
        }
    }
}

struct Source<'t> {
    text: &'t str,
    name: Arc<str>,
}

impl Source<'_> {
    fn origin(&self, span: Range<usize>) -> Origin {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Origin::File { name: Arc::clone(&self.name), line }
    }

    fn document(&self, document: &DeTable<'_>, draft: &mut Draft) {
        let sections = keys::sections();
        for (section, value) in document {
            let name = section.get_ref().as_ref();
            let origin = self.origin(section.span());
            match value.get_ref() {
                value if name == RESOURCE => self.resources(value, origin, draft),
                DeValue::Table(table) if sections.contains(&name) => self.section(name, table, draft),
                _ if sections.contains(&name) => {
                    draft.problem(origin, format!("`{name}` must be a table, [{name}]"));
                }
                DeValue::Table(_) => draft.problem(origin, unknown_section(name, &sections)),
                _ => draft.problem(origin, unknown_at_top(name)),
            }
        }
    }

    fn section(&self, section: &str, table: &DeTable<'_>, draft: &mut Draft) {
        for (name, value) in table {
            let text = name.get_ref().as_ref();
            match keys::find(section, text) {
                Some(key) => draft.set(key, raw(value), self.origin(value.span())),
                None => draft.problem(self.origin(name.span()), unknown_key(section, text)),
            }
        }
    }

    fn resources(&self, value: &DeValue<'_>, origin: Origin, draft: &mut Draft) {
        let DeValue::Array(array) = value else {
            return draft.problem(origin, "`resource` is a list of tables: write [[resource]]".to_owned());
        };
        if array.len() > RESOURCES_MAX {
            let what = format!("{} resources; at most {RESOURCES_MAX} are allowed", array.len());
            return draft.problem(origin, what);
        }
        for element in array {
            let origin = self.origin(element.span());
            match element.get_ref() {
                DeValue::Table(table) => self.resource(table, origin, draft),
                _ => draft.problem(origin, "`resource` is a list of tables: write [[resource]]".to_owned()),
            }
        }
    }

    fn resource(&self, table: &DeTable<'_>, origin: Origin, draft: &mut Draft) {
        let mut resource = ResourceDraft::new(origin.clone());
        for (key, value) in table {
            let at = self.origin(value.span());
            match (key.get_ref().as_ref(), raw(value)) {
                ("name", Raw::Text(text)) => resource.name = text,
                ("url", Raw::Text(text)) => resource.set_url(&text, at, draft),
                ("participants", Raw::List(list)) => resource.set_participants(list, at, draft),
                ("name" | "url", raw) => {
                    let what = format!("resource.{} must be a string, not {}", key.get_ref(), raw.kind());
                    draft.problem(at, what);
                }
                ("participants", raw) => {
                    draft.problem(
                        at,
                        format!("resource.participants must be a list of strings, not {}", raw.kind()),
                    );
                }
                (unknown, _) => {
                    let hint = suggestion(unknown, &RESOURCE_KEYS);
                    let what = format!("unknown key {} in [[resource]]; {hint}", quoted(unknown));
                    draft.problem(self.origin(key.span()), what);
                }
            }
        }
        draft.add_resource(resource, origin);
    }
}

fn raw(value: &Spanned<DeValue<'_>>) -> Raw {
    match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(integer) => match i128::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => Raw::Integer(number),
            Err(_) => Raw::Other("an endless integer"),
        },
        DeValue::Array(array) => strings(array).map_or(Raw::Other("a list of other things"), Raw::List),
        DeValue::Float(_) => Raw::Other("a decimal fraction"),
        DeValue::Boolean(value) => Raw::Boolean(*value),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a table"),
    }
}

fn strings(array: &DeArray<'_>) -> Option<Vec<String>> {
    array.iter().map(|element| element.get_ref().as_str().map(str::to_owned)).collect()
}

fn suggestion(word: &str, candidates: &[&str]) -> String {
    match nearest(word, candidates.iter().copied()) {
        Some(known) => format!("did you mean {known:?}?"),
        None => format!("known are {}", candidates.join(", ")),
    }
}

fn unknown_section(name: &str, sections: &[&str]) -> String {
    let candidates: Vec<_> = sections.iter().copied().chain([RESOURCE]).collect();
    format!("unknown table [{}]; {}", name.escape_debug(), suggestion(name, &candidates))
}

fn unknown_at_top(name: &str) -> String {
    let unknown = format!("unknown key {} outside of any table", quoted(name));
    match keys::KEYS.iter().find(|key| key.name == name) {
        Some(key) => format!("{unknown}; it belongs in [{}]", key.section),
        None => format!("{unknown}; known are the tables {}", keys::sections().join(", ")),
    }
}

pub(super) fn unknown_key(section: &str, name: &str) -> String {
    let unknown = format!("unknown key {} in [{section}]", quoted(name));
    let here: Vec<_> = keys::of_section(section).map(|key| key.name).collect();
    let elsewhere = keys::KEYS.iter().find(|key| key.name == name);
    match (nearest(name, here.iter().copied()), elsewhere) {
        (Some(known), _) => format!("{unknown}; did you mean {known:?}?"),
        (None, Some(key)) => format!("{unknown}; did you mean {name:?} in [{}]?", key.section),
        (None, None) => format!("{unknown}; known are {}", here.join(", ")),
    }
}
