//! The report of a run: what is in its files, read as anyone would read them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what is wrong by failing")]

use std::fs;
use std::path::Path;

use clojure_reader::edn::{self, Edn};
use jepsen::Anomaly;
use jepsen::history::{self, Operation};
use jepsen::report::{self, Report};
use jepsen::verdict::{Claim, Verdict};
use roxmltree::{Document, Node, ParsingOptions};
use serde_json::json;
use tempfile::TempDir;

/// Ten transfers of 10 ms, one a second: eight are done, one fails, one is not known; and a read that never ends.
/// Three faults, of which the first two overlap and end in the other order, and the last does not end.
const RUN: &str = r#"
    {:process 0 :type :invoke :f :transfer :time 0}
    {:process 0 :type :ok :f :transfer :time 10000000}
    {:process 0 :type :invoke :f :transfer :time 1000000000}
    {:process 0 :type :ok :f :transfer :time 1010000000}
    {:process :nemesis :type :info :f :start-kill :time 1500000000 :value {:id 1 :target "coordinator" :signal 9 :detail "kill -9"}}
    {:process 0 :type :invoke :f :transfer :time 2000000000}
    {:process 0 :type :ok :f :transfer :time 2010000000}
    {:process :nemesis :type :info :f :start-kill :time 2500000000 :value {:id 2 :target "bank <b>"}}
    {:process 0 :type :invoke :f :transfer :time 3000000000}
    {:process 0 :type :ok :f :transfer :time 3010000000}
    {:process :nemesis :type :info :f :stop-kill :time 3500000000 :value {:id 2}}
    {:process 0 :type :invoke :f :transfer :time 4000000000}
    {:process 0 :type :ok :f :transfer :time 4010000000}
    {:process 0 :type :invoke :f :transfer :time 5000000000}
    {:process 0 :type :ok :f :transfer :time 5010000000}
    {:process :nemesis :type :info :f :stop-kill :time 5500000000 :value {:id 1}}
    {:process 0 :type :invoke :f :transfer :time 6000000000}
    {:process 0 :type :ok :f :transfer :time 6010000000}
    {:process :nemesis :type :info :f :start-slow :time 6500000000 :value {:id 3 :target :mysql-1}}
    {:process 0 :type :invoke :f :transfer :time 7000000000}
    {:process 0 :type :ok :f :transfer :time 7010000000}
    {:process 1 :type :invoke :f :read :time 7500000000}
    {:process 0 :type :invoke :f :transfer :time 8000000000}
    {:process 0 :type :fail :f :transfer :time 8010000000 :error :insufficient}
    {:process 0 :type :invoke :f :transfer :time 9000000000}
    {:process 0 :type :info :f :transfer :time 9500000000 :error :timeout}
"#;

fn agreement(violations: Vec<Anomaly>) -> Claim {
    let statement = "All branches end the same way.";
    Claim { id: "I1", title: "Agreement", statement, checked: 1_234, violations }
}

fn report<'a>(history: &'a [Operation], claims: Vec<Claim>, vacuous: &[&str]) -> Report<'a> {
    let vacuous: Vec<String> = vacuous.iter().map(|reason| (*reason).to_owned()).collect();
    Report {
        history,
        title: "bank & kill".into(),
        parameters: vec![("workload".into(), "bank".into()), ("seed".into(), "7".into())],
        command: "jepsen run --workload bank --seed 7".into(),
        verdict: Verdict::of(&claims, &[], &vacuous),
        claims,
        anomalies: Vec::new(),
        vacuous,
    }
}

fn write(report: &Report<'_>) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    report::write(directory.path(), report).unwrap();
    directory
}

/// A file of the report; its text lives as long as the process.
fn text(directory: &TempDir, name: &str) -> &'static str {
    fs::read_to_string(directory.path().join(name)).unwrap().leak()
}

fn xml(directory: &TempDir, name: &str) -> Document<'static> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(text(directory, name), options)
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What a reader sees of a part of a page, without the spaces that do not show.
fn words(node: Node<'_, '_>) -> String {
    let texts = node.descendants().filter(|node| node.is_text());
    let texts: Vec<&str> = texts.filter_map(|node| node.text()).collect();
    texts.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn all<'a>(document: &'a Document<'static>, tag: &str) -> Vec<Node<'a, 'static>> {
    document.descendants().filter(|node| node.has_tag_name(tag)).collect()
}

fn number(node: &Node<'_, '_>, attribute: &str) -> f64 {
    node.attribute(attribute).unwrap().parse().unwrap()
}

/// The rows of a page's tables, and what is in their cells.
fn rows(page: &Document<'static>) -> Vec<Vec<String>> {
    let cells = |row: &Node<'_, 'static>| {
        row.children().filter(|cell| cell.has_tag_name("td")).map(words).collect::<Vec<_>>()
    };
    all(page, "tr").iter().map(cells).collect()
}

/// Where faults shade a plot, from the left to the right. Nothing else that is rectangular is as high, but the paper.
fn shades(plot: &Document<'static>) -> Vec<(f64, f64)> {
    let rectangles = all(plot, "rect").into_iter().filter(|node| number(node, "height") > 200.0);
    let mut shades: Vec<_> = rectangles
        .skip(1)
        .map(|node| (number(&node, "x"), number(&node, "x") + number(&node, "width")))
        .collect();
    shades.sort_by(|a, b| a.0.total_cmp(&b.0));
    shades
}

#[test]
fn a_valid_run() {
    let history = history::read(RUN).unwrap();
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("logs")).unwrap();
    fs::write(directory.path().join("logs/coordinator.log"), [b'x'; 1_500]).unwrap();
    report::write(directory.path(), &report(&history, vec![agreement(vec![])], &[])).unwrap();

    let page = xml(&directory, "index.html");
    assert_eq!(words(all(&page, "h1")[0]), "VALID");
    let header = words(all(&page, "header")[0]);
    assert!(header.contains("bank & kill"), "{header}");
    assert!(header.contains("1,234 checks") && header.contains("11 operations · 3 faults"), "{header}");
    let rows = rows(&page);
    for row in [
        &["I1", "Agreement All branches end the same way.", "1,234", "0"][..],
        &["transfer", "8", "1", "1", "10.0", "10.0", "10.0"],
        &["read", "0", "0", "1", "–", "–", "–"],
        &["kill", "2", "5.0 s"],
        &["slow", "1", "3.0 s"],
        &["1.5 s", "4.0 s", "kill", "coordinator", "kill -9, :signal 9"],
        &["2.5 s", "1.0 s", "kill", "bank <b>", ""],
        &["6.5 s", "to the end", "slow", "mysql-1", ""],
        &["seed", "7"],
    ] {
        assert!(rows.iter().any(|cells| cells == row), "{row:?} is not in {rows:?}");
    }
    let links: Vec<_> = all(&page, "a").iter().filter_map(|link| link.attribute("href")).collect();
    for link in ["history.edn", "result.json", "result.edn", "logs/coordinator.log"] {
        assert!(links.contains(&link), "{link} is not in {links:?}");
    }
    assert!(words(page.root()).contains("jepsen run --workload bank --seed 7"));
    for source in all(&page, "img").iter().filter_map(|image| image.attribute("src")) {
        assert!(directory.path().join(source).is_file(), "{source}");
    }
    assert!(!text(&directory, "index.html").contains("://"), "nothing comes from elsewhere");
}

#[test]
fn programs_read_the_same_in_json_and_in_edn() {
    let history = history::read(RUN).unwrap();
    let explanation = "bank \"A\" says\n\tCOMMITTED \\ bank B \u{1b}[31mROLLED BACK";
    let anomaly = Anomaly { name: "mixed", explanation: explanation.into() };
    let directory = write(&report(&history, vec![agreement(vec![anomaly])], &["no <fault>"]));
    let result: serde_json::Value = serde_json::from_str(text(&directory, "result.json")).unwrap();
    let ten_ms = json!({ "p50": 10.0, "p99": 10.0, "max": 10.0 });
    let expected = json!({
        "title": "bank & kill",
        "verdict": "invalid",
        "vacuous": ["no <fault>"],
        "claims": [{
            "id": "I1",
            "title": "Agreement",
            "statement": "All branches end the same way.",
            "checked": 1234,
            "violations": [{ "name": "mixed", "explanation": explanation }],
        }],
        "anomalies": [],
        "seconds": 9.5,
        "operations": [
            { "f": "read", "ok": 0, "fail": 0, "info": 1, "latency_ms": null },
            { "f": "transfer", "ok": 8, "fail": 1, "info": 1, "latency_ms": ten_ms },
        ],
        "faults": [
            { "kind": "kill", "count": 2, "seconds": 5.0 },
            { "kind": "slow", "count": 1, "seconds": 3.0 },
        ],
        "parameters": { "workload": "bank", "seed": "7" },
        "command": "jepsen run --workload bank --seed 7",
    });
    assert_eq!(numbers_rounded(&result), expected);
    let same = edn::read_string(text(&directory, "result.edn")).unwrap();
    assert_eq!(same, as_edn(&result));
}

/// The histogram keeps three digits.
fn numbers_rounded(value: &serde_json::Value) -> serde_json::Value {
    let mut value = value.clone();
    for percentile in ["p50", "p99"] {
        let place = &mut value["operations"][1]["latency_ms"][percentile];
        *place = json!((place.as_f64().unwrap() * 10.0).round() / 10.0);
    }
    value
}

/// Names become keywords, but those of the parameters, which need not be words.
fn as_edn(value: &serde_json::Value) -> Edn<'static> {
    use serde_json::Value;
    match value {
        Value::Null => Edn::Nil,
        Value::Bool(value) => Edn::Bool(*value),
        // EDN's writer leaves out the point of a whole number.
        Value::Number(value) => edn::read_string(&value.as_f64().unwrap().to_string()).unwrap().into_owned(),
        Value::String(value) => Edn::Str(value.clone().into()),
        Value::Array(values) => Edn::Vector(values.iter().map(as_edn).collect()),
        Value::Object(map) => {
            let key = |name: &str| match name {
                "workload" | "seed" => Edn::Str(name.to_owned().into()),
                _ => Edn::Key(name.to_owned().into()),
            };
            Edn::Map(map.iter().map(|(name, value)| (key(name), as_edn(value))).collect())
        }
    }
}

#[test]
fn an_invalid_run_is_explained_in_full() {
    let history = history::read(RUN).unwrap();
    let explanation = "<script>alert('1 & 2')</script>\n  bank \"B\" says \u{1b}ROLLED BACK &amp;\u{FFFF}";
    let anomaly = |name| Anomaly { name, explanation: explanation.into() };
    let mut report = report(&history, vec![agreement(vec![anomaly("mixed"), anomaly("mixed")])], &["few"]);
    report.anomalies.push(anomaly("G1c"));
    let directory = write(&report);
    let page = xml(&directory, "index.html");
    assert_eq!(words(all(&page, "h1")[0]), "INVALID");
    let header = words(all(&page, "header")[0]);
    assert!(header.contains("3 violations") && header.contains("few"), "{header}");
    // Neither HTML nor XML has a way to write these characters.
    let shown = explanation.replace(['\u{1b}', '\u{FFFF}'], "\u{FFFD}");
    let explanations = all(&page, "pre").iter().filter(|pre| pre.text() == Some(&shown)).count();
    assert_eq!(explanations, 3);
    assert!(all(&page, "script").is_empty());
    assert!(
        rows(&page)
            .iter()
            .any(|cells| cells[..] == ["I1", "Agreement All branches end the same way.", "1,234", "2"])
    );
}

#[test]
fn a_vacuous_run_says_why() {
    let history = history::read(RUN).unwrap();
    let directory = write(&report(&history, vec![agreement(vec![])], &["only <3> faults", "nothing failed"]));
    let page = xml(&directory, "index.html");
    assert_eq!(words(all(&page, "h1")[0]), "VACUOUS");
    let header = words(all(&page, "header")[0]);
    assert!(header.contains("only <3> faults") && header.contains("nothing failed"), "{header}");
}

#[test]
fn each_fault_shades_both_plots_from_its_beginning_to_its_end() {
    let history = history::read(RUN).unwrap();
    let directory = write(&report(&history, vec![], &[]));
    for name in ["latency.svg", "rate.svg"] {
        let plot = xml(&directory, name);
        let shades = shades(&plot);
        assert_eq!(shades.len(), 3, "{name}: {shades:?}");
        // The axis begins at 0 s; the last fault goes to its end, at 9.5 s.
        let axes = all(&plot, "polyline");
        let xs =
            axes.iter().flat_map(|line| line.attribute("points")?.split(',').next()?.parse::<f64>().ok());
        let (left, right) = (xs.fold(f64::INFINITY, f64::min), shades[2].1);
        let seconds = |pixel: f64| ((pixel - left) / (right - left) * 9.5 * 10.0).round() / 10.0;
        let times: Vec<_> = shades.iter().map(|(start, end)| (seconds(*start), seconds(*end))).collect();
        assert_eq!(times, [(1.5, 5.5), (2.5, 3.5), (6.5, 9.5)], "{name}");
        let words = words(plot.root());
        assert!(words.contains("kill") && words.contains("slow"), "{name}: {words}");
    }
}

#[test]
fn histories_with_next_to_nothing_in_them() {
    for lines in [
        "",
        "{:process 0 :type :invoke :f :a :time 0}",
        "{:process 0 :type :invoke :f :a :time 0}\n{:process 0 :type :ok :f :a :time 0}",
        "{:process 0 :type :invoke :f :a :time 5}\n{:process 0 :type :info :f :a :time 6}",
        "{:process 0 :type :invoke :f :a :time 7000000}\n{:process 0 :type :ok :f :a :time -3}",
        "{:process 0 :type :invoke :f :a :time -9223372036854775808}\n\
         {:process 0 :type :fail :f :a :time 9223372036854775807}",
        "{:process :nemesis :type :info :f :start-kill :time 0 :value nil}",
        "{:process :nemesis :type :info :f :stop-kill :time 9 :value {:id 1}}",
        "{:process :nemesis :type :info :f :heal :time 9 :value [:all]}",
    ] {
        let history = history::read(lines).unwrap();
        let directory = write(&report(&history, vec![], &["nothing was tried"]));
        for name in ["index.html", "latency.svg", "rate.svg"] {
            let document = xml(&directory, name);
            assert!(!text(&directory, name).contains("NaN"), "{name} of {lines}");
            assert!(!words(document.root()).contains("inf "), "{name} of {lines}");
        }
        let windows = usize::from(lines.contains(":start-"));
        assert_eq!(shades(&xml(&directory, "rate.svg")).len(), windows, "{lines}");
    }
}

#[test]
fn of_many_operations_the_slowest_are_drawn_in_any_case() {
    let mut lines = String::new();
    for place in 0..50_000_i64 {
        let start = place * 2_000_000;
        let (outcome, latency) = match place {
            31_001 => ("ok", 9_000_000_000),
            41_001 => ("info", 5_000_000_000),
            _ if place % 10 == 0 => ("fail", 3_000_000),
            _ => ("ok", 1_500_000 + place % 7 * 100_000),
        };
        let f = if place < 25_000 { "transfer" } else { "read" };
        lines += &format!("{{:process {place} :type :invoke :f :{f} :time {start}}}\n");
        lines += &format!("{{:process {place} :type :{outcome} :f :{f} :time {}}}\n", start + latency);
    }
    let history = history::read(&lines).unwrap();
    let directory = write(&report(&history, vec![], &[]));
    let plot = xml(&directory, "latency.svg");
    // One circle, one triangle and two crosses are in the legend.
    let circles = all(&plot, "circle");
    let triangles = all(&plot, "polygon");
    assert!((5_000..10_000).contains(&circles.len()), "{}", circles.len());
    assert_eq!(triangles.len(), 2);
    let mut heights: Vec<f64> = circles[1..].iter().map(|circle| number(circle, "cy")).collect();
    heights.sort_by(f64::total_cmp);
    // 9 s is more than three decades above 2 ms, on an axis of four.
    assert!(heights[1] - heights[0] > 200.0, "{:?}", &heights[..3]);
    assert!(text(&directory, "latency.svg").len() < 2_000_000);
    let page = xml(&directory, "index.html");
    let operations: Vec<_> = rows(&page).into_iter().filter(|cells| cells.len() == 7).collect();
    assert_eq!(operations.len(), 2);
    assert_eq!(operations[0][..4], ["read", "22,499", "2,500", "1"]);
    assert_eq!(operations[0][6], "9,000.0");
    assert_eq!(operations[1][..4], ["transfer", "22,500", "2,500", "0"]);
}

#[test]
fn a_history_that_makes_no_sense_is_turned_away() {
    let history = history::read("{:process 0 :type :ok :f :a}").unwrap();
    let error = report::write(Path::new("nowhere"), &report(&history, vec![], &[])).unwrap_err();
    assert_eq!(error.to_string(), "operation 0 does not belong to what came before");
}
