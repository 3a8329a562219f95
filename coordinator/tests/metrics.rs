//! The page of metrics is OpenMetrics, and what docs/ has about it names what is there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use concord_coordinator::config::{Config, DatabaseUrl, Resource};
use concord_coordinator::engine::{
    Backoff, BeginRequest, BranchCall, BranchRequest, CallResult, Engine, Grade, Kind, Participants,
    Settings, Wait,
};
use concord_coordinator::resource::Resources;
use concord_coordinator::scrape;
use concord_coordinator::store::{MemoryStore, UnixMillis};
use concord_coordinator::transport::{GrpcParticipants, OutboundSettings};
use concord_protocol::{Outcome, Reply, Verb, Vote};
use futures_util::future::BoxFuture;
use regex::Regex;
use serde_json::Value;

/// Does as it is told.
struct Willing;

impl Participants for Willing {
    fn call(&self, call: BranchCall) -> BoxFuture<'static, CallResult> {
        let reply = match call.verb {
            Verb::WorkAndPrepare | Verb::Try => Reply::Vote(Vote::Yes),
            _ => Reply::Ended(Outcome::Committed),
        };
        let result = CallResult { reply, reason: String::new(), payload: Default::default() };
        Box::pin(std::future::ready(result))
    }

    fn permits(&self, _: &str) -> bool {
        true
    }
}

/// The page of a coordinator with a resource, after a transaction.
async fn page() -> String {
    let settings = Settings {
        live_transactions_max: 10,
        branches_max: 10,
        payload_bytes_max: 1 << 20,
        timeout_default: Duration::from_secs(30),
        timeout_max: Duration::from_secs(30),
        backoff: Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1) },
        park_after_attempts: None,
        tenants: Default::default(),
    };
    let engine = Engine::start(Arc::new(MemoryStore::new()), Arc::new(Willing), settings).await.unwrap();
    let branch = |kind| BranchRequest {
        kind,
        participant: "http://shop".into(),
        action: "sell".into(),
        payload: Default::default(),
    };
    let branches = vec![branch(Kind::Xa), branch(Kind::Tcc)];
    engine.execute(BeginRequest::default(), Grade::EarlyVote, branches, Wait::Completed, None).await.unwrap();
    let participants =
        GrpcParticipants::new(engine.cluster_id(), OutboundSettings::default(), engine.metrics());
    let mut config = Config::default();
    config.resources.push(Resource {
        name: "bank-a".into(),
        url: DatabaseUrl::parse("mysql://bank@127.0.0.1:3306/bank").unwrap(),
        participants: Vec::new(),
    });
    let resources = Resources::new(&config, engine.cluster_id());
    scrape::text(&engine, &participants, &resources, UnixMillis(1_700_000_000_000))
}

/// Names and values.
type Labels = Vec<(String, String)>;

/// A metric of the page.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    unit: Option<String>,
    /// By name and labels, those of buckets in the order of the page.
    samples: Vec<(String, Labels, f64)>,
}

impl Family {
    /// By which a question may ask for it.
    fn names(&self, name: &str) -> Vec<String> {
        let suffixes: &[&str] = match self.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_count", "_sum"],
            "info" => &["_info"],
            other => panic!("{name} is of type {other}"),
        };
        suffixes.iter().map(|suffix| format!("{name}{suffix}")).collect()
    }

    /// The names of its labels, without that of buckets.
    fn labels(&self) -> BTreeSet<String> {
        let names =
            self.samples.iter().flat_map(|(_, labels, _)| labels.iter().map(|(name, _)| name.clone()));
        names.filter(|name| name != "le").collect()
    }
}

/// Reads the page, and insists on the rules of OpenMetrics 1.0 for what is in it.
fn parse(page: &str) -> BTreeMap<String, Family> {
    let body = page.strip_suffix("# EOF\n").expect("ends with its mark");
    let header = Regex::new(r"^# (HELP|TYPE|UNIT) ([a-z_:][a-z0-9_:]*) (.+)$").unwrap();
    let sample = Regex::new(r"^([a-z_:][a-z0-9_:]*)(?:\{(.*)\})? (\S+)$").unwrap();
    let label = Regex::new(r#"^([a-z_][a-z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)"#).unwrap();
    let (mut families, mut current) = (BTreeMap::<String, Family>::new(), String::new());
    for line in body.lines() {
        if let Some(found) = header.captures(line) {
            let (what, name, text) = (&found[1], &found[2], found[3].to_owned());
            if what == "HELP" {
                assert!(text.ends_with('.') && !text.ends_with(".."), "{line}");
                name.clone_into(&mut current);
                let before = families.insert(current.clone(), Family::default());
                assert!(before.is_none(), "{name} is there twice");
            }
            assert_eq!(name, current, "{line}");
            let family = families.get_mut(name).unwrap();
            match what {
                "TYPE" => family.kind = text,
                "UNIT" => {
                    assert!(name.ends_with(&format!("_{text}")), "{line}");
                    family.unit = Some(text);
                }
                _ => {}
            }
            continue;
        }
        let found =
            sample.captures(line).unwrap_or_else(|| panic!("neither a header nor a sample: {line:?}"));
        let family = families.get_mut(&current).unwrap();
        assert!(family.names(&current).contains(&found[1].to_owned()), "{line:?} is under {current}");
        let (mut rest, mut labels) = (found.get(2).map_or("", |labels| labels.as_str()), Vec::new());
        while !rest.is_empty() {
            let one = label.captures(rest).unwrap_or_else(|| panic!("no labels: {line}"));
            labels.push((one[1].to_owned(), one[2].to_owned()));
            rest = &rest[one[0].len()..];
        }
        let value = found[3].parse().unwrap_or_else(|_| panic!("no number: {line}"));
        family.samples.push((found[1].to_owned(), labels, value));
    }
    families
}

/// Buckets only grow, and the last one holds as many as there are.
fn check_histogram(name: &str, family: &Family) {
    let of = |suffix: &str| {
        let wanted = format!("{name}{suffix}");
        family.samples.iter().filter(move |(name, ..)| *name == wanted)
    };
    let mut series = BTreeMap::<Labels, Vec<(f64, f64)>>::new();
    for (_, labels, count) in of("_bucket") {
        let (bound, labels): (Vec<_>, Vec<_>) =
            labels.clone().into_iter().partition(|(name, _)| name == "le");
        let bound = if bound[0].1 == "+Inf" { f64::INFINITY } else { bound[0].1.parse().unwrap() };
        series.entry(labels).or_default().push((bound, *count));
    }
    assert!(!series.is_empty(), "{name} has no buckets");
    for (labels, buckets) in &series {
        let grows = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
        assert!(buckets.windows(2).all(grows), "{name} {labels:?}: {buckets:?}");
        let last = buckets.last().unwrap();
        let count = of("_count").find(|(_, of, _)| of == labels).unwrap();
        assert_eq!(*last, (f64::INFINITY, count.2), "{name} {labels:?}");
        assert!(of("_sum").any(|(_, of, _)| of == labels), "{name} {labels:?}");
    }
}

#[tokio::test]
async fn the_page_is_openmetrics() {
    let page = page().await;
    let families = parse(&page);
    for (name, family) in &families {
        let (mut seen, has_unit) = (BTreeSet::new(), family.unit.is_some());
        for (sample, labels, value) in &family.samples {
            assert!(seen.insert((sample, labels)), "{sample} {labels:?} is there twice");
            assert!(*value >= 0.0, "{sample} {labels:?}: {value}");
        }
        assert_eq!(has_unit, name.ends_with("_seconds") || name.ends_with("_bytes"), "{name}");
        assert!(name.starts_with("concord_") || name.starts_with("process_"), "{name}");
        if family.kind == "histogram" {
            check_histogram(name, family);
        }
    }
    let ended = &families["concord_transactions_ended"].samples;
    assert_eq!(ended.iter().map(|(.., value)| value).sum::<f64>(), 1.0, "the transaction shows");
    let started = &families["process_start_time_seconds"].samples;
    assert_eq!(started[0].2, 1_700_000_000.0);
}

fn docs(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names and labels in backquotes.
fn quoted(cell: &str) -> BTreeSet<String> {
    let quoted = Regex::new("`([^`]+)`").unwrap();
    quoted.captures_iter(cell).map(|found| found[1].to_owned()).collect()
}

#[tokio::test]
async fn the_table_of_the_docs_has_what_the_page_has() {
    let families = parse(&page().await);
    let mut shown = BTreeMap::new();
    for (name, family) in &families {
        let name = match family.kind.as_str() {
            "histogram" => name.clone(),
            _ => family.names(name).remove(0),
        };
        shown.insert(name, (family.kind.clone(), family));
    }
    let mut documented = BTreeSet::new();
    for line in docs("metrics.md").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("not four cells: {line}") };
        let name = quoted(name).pop_first().unwrap();
        let Some((shown_kind, family)) = shown.get(&name) else { panic!("the page has no {name}") };
        assert_eq!(kind, shown_kind, "{name}");
        // One that is only there once a resource was swept.
        if !family.samples.is_empty() {
            assert_eq!(quoted(labels), family.labels(), "{name}");
        }
        assert!(!meaning.is_empty(), "{name}");
        assert!(documented.insert(name.clone()), "{name} is there twice");
    }
    let missing: Vec<_> = shown.keys().filter(|name| !documented.contains(*name)).collect();
    assert!(missing.is_empty(), "docs/metrics.md has no {missing:?}");
}

/// What a question in PromQL asks for: all words that are not functions, operators, labels or texts.
fn metrics_in(question: &str) -> BTreeSet<String> {
    const WORDS: [&str; 23] = [
        "absent",
        "and",
        "by",
        "changes",
        "group_left",
        "histogram_quantile",
        "increase",
        "instance",
        "label_values",
        "max",
        "min",
        "min_over_time",
        "on",
        "or",
        "rate",
        "sum",
        "time",
        "unless",
        "up",
        "without",
        "version",
        "clamp_min",
        "avg",
    ];
    let beside = Regex::new(r#"\{[^}]*\}|\[[^\]]*\]|"[^"]*"|(by|without|on|group_left) *\([^)]*\)"#).unwrap();
    let word = Regex::new(r"[a-zA-Z_:][a-zA-Z0-9_:]*").unwrap();
    let rest = beside.replace_all(question, " ");
    let words = word.find_iter(&rest).map(|word| word.as_str().to_owned());
    words.filter(|word| !WORDS.contains(&word.as_str())).collect()
}

#[test]
fn a_question_asks_for_metrics() {
    let question = "histogram_quantile(0.99, sum by (le, protocol) (rate(concord_x_seconds_bucket{a=~\"$b\"}[5m]))) \
                    / on (instance) group_left (version) concord_y and time() > 5";
    let expected = ["concord_x_seconds_bucket", "concord_y"].map(str::to_owned);
    assert_eq!(metrics_in(question), BTreeSet::from(expected));
    assert_eq!(metrics_in("sum(concrod_z)"), BTreeSet::from(["concrod_z".to_owned()]));
}

/// Every metric of these questions is on the page.
async fn check_questions(questions: &[String]) {
    let families = parse(&page().await);
    let known: BTreeSet<_> = families.iter().flat_map(|(name, family)| family.names(name)).collect();
    assert!(!questions.is_empty());
    for question in questions {
        let asked = metrics_in(question);
        assert!(!asked.is_empty() || question.contains("up{"), "asks for nothing: {question}");
        for name in asked {
            assert!(known.contains(&name), "there is no {name}: {question}");
        }
    }
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    rules: Vec<Alert>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Alert {
    alert: String,
    expr: String,
    r#for: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[tokio::test]
async fn alerts_ask_for_what_is_there_and_say_what_to_do() {
    let rules: Rules = serde_saphyr::from_str(&docs("metrics/alerts.yml")).unwrap();
    let (mut names, mut questions) = (BTreeSet::new(), Vec::new());
    let duration = Regex::new("^[1-9][0-9]*[smh]$").unwrap();
    for Group { name: group, rules } in rules.groups {
        assert!(!rules.is_empty(), "{group}");
        for Alert { alert, expr, r#for, labels, annotations } in rules {
            assert!(r#for.is_none_or(|span| duration.is_match(&span)), "{alert}");
            assert!(["warning", "critical"].contains(&labels["severity"].as_str()), "{alert}");
            let keys: Vec<_> = annotations.keys().map(String::as_str).collect();
            assert_eq!(keys, ["description", "runbook", "summary"], "{alert}");
            let section = format!("docs/operations.md#{}", alert.to_lowercase());
            assert_eq!(annotations["runbook"], section, "{alert}");
            assert!(annotations.values().all(|text| text.len() > 20), "{alert}");
            assert!(names.insert(alert.clone()), "{alert} is there twice");
            questions.push(expr);
        }
    }
    check_questions(&questions).await;
    check_runbook(&names);
    // A chart has only what is in it.
    let in_chart = docs("../deploy/helm/concord/files/alerts.yml");
    assert!(in_chart == docs("metrics/alerts.yml"), "copy docs/metrics/alerts.yml into the chart");
}

/// Each alert has a section in the handbook, and no other; in each stand the four things that its reader wants to know.
fn check_runbook(alerts: &BTreeSet<String>) {
    let handbook = docs("operations.md");
    let alerts_part = handbook.split("\n## ").find(|part| part.starts_with("Alerts\n")).unwrap();
    let mut described = BTreeSet::new();
    for section in alerts_part.split("\n### ").skip(1) {
        let (alert, text) = section.split_once('\n').unwrap();
        for part in ["Means", "Look", "Do", "Do not"] {
            let starts = [format!("**{part}.**"), format!("**{part}** ")];
            assert!(starts.iter().any(|start| text.contains(start)), "{alert} has no {part}");
        }
        assert!(described.insert(alert.to_owned()), "{alert} is there twice");
    }
    assert_eq!(&described, alerts, "docs/operations.md, docs/metrics/alerts.yml");
}

/// All texts under these keys, however deep.
fn texts(value: &Value, keys: &[&str], found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if keys.contains(&key.as_str()) => found.push(text.clone()),
                    value => texts(value, keys, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| texts(value, keys, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_dashboard_asks_for_what_is_there() {
    let dashboard: Value = serde_json::from_str(&docs("metrics/concord-dashboard.json")).unwrap();
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "the id of {title} is another's");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title} is too wide");
        for (x, y) in (0..place("w")).flat_map(|x| (0..place("h")).map(move |y| (x, y))) {
            assert!(places.insert((place("x") + x, place("y") + y)), "{title} covers another");
        }
        let is_row = panel["type"] == "row";
        assert!(is_row || panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}");
        assert!(is_row || !panel["targets"].as_array().unwrap().is_empty(), "{title}");
    }
    let mut questions = Vec::new();
    texts(&dashboard["panels"], &["expr"], &mut questions);
    texts(&dashboard["templating"], &["definition"], &mut questions);
    check_questions(&questions).await;
}
