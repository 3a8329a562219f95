//! Resources, branches in doubt, and the coordinator itself.

use std::fmt::Write as _;

use concord_proto::v1;
use prost_types::Timestamp;
use serde::Serialize;

use super::ages::span;
use super::table::{Cell, Tone, facts, table};
use super::{Look, View, counted, non_empty, rfc3339, unix_ms};

/// The configured resources.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct ResourceListing {
    resources: Vec<ResourceRecord>,
}

#[derive(Debug, Serialize)]
struct ResourceRecord {
    name: String,
    address: String,
    server: Option<String>,
    reachable: bool,
    error: Option<String>,
    in_doubt_ours: u32,
    in_doubt_foreign: u32,
    swept_at: Option<String>,
    committed_by_sweeper: u64,
    rolled_back_by_sweeper: u64,
    participants: Vec<String>,
    #[serde(skip)]
    swept_ms: Option<i64>,
}

impl From<v1::ListResourcesResponse> for ResourceListing {
    fn from(response: v1::ListResourcesResponse) -> Self {
        let record = |resource: v1::Resource| ResourceRecord {
            name: resource.name,
            address: resource.address,
            server: non_empty(resource.server),
            reachable: resource.reachable,
            error: non_empty(resource.error),
            in_doubt_ours: resource.in_doubt_ours,
            in_doubt_foreign: resource.in_doubt_foreign,
            swept_ms: resource.swept_at.as_ref().map(unix_ms),
            swept_at: rfc3339(resource.swept_at),
            committed_by_sweeper: resource.committed_by_sweeper,
            rolled_back_by_sweeper: resource.rolled_back_by_sweeper,
            participants: resource.participants,
        };
        ResourceListing { resources: response.resources.into_iter().map(record).collect() }
    }
}

impl ResourceRecord {
    fn row(&self, look: &Look) -> Vec<Cell> {
        let status = match &self.error {
            Some(error) => Cell::free(error).tone(Tone::Alarm),
            None if self.reachable => Cell::new("reachable").tone(Tone::Good),
            None => Cell::new("not reached yet").tone(Tone::Quiet),
        };
        vec![
            Cell::new(&self.name),
            Cell::new(&self.address),
            self.server.as_ref().map_or_else(Cell::none, Cell::new),
            status,
            self.in_doubt_ours.to_string().into(),
            self.in_doubt_foreign.to_string().into(),
            self.committed_by_sweeper.to_string().into(),
            self.rolled_back_by_sweeper.to_string().into(),
            self.swept_ms.map_or_else(|| Cell::new("never"), |ms| ago(ms, look)),
        ]
    }
}

impl View for ResourceListing {
    fn text(&self, look: &Look) -> String {
        if self.resources.is_empty() {
            return "no resources; they are configured as [[resource]], see `concord config example`\n"
                .to_owned();
        }
        let heading = [
            "NAME",
            "ADDRESS",
            "SERVER",
            "STATUS",
            "IN DOUBT",
            "FOREIGN",
            "COMMITTED",
            "ROLLED BACK",
            "SWEPT",
        ];
        table(look, &heading, self.resources.iter().map(|resource| resource.row(look)))
    }
}

/// Branches found prepared on the resources.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct InDoubtListing {
    branches: Vec<InDoubtRecord>,
    unreachable: Vec<UnreachableRecord>,
    /// The resources that have answered.
    asked: Vec<String>,
    /// As far as the coordinator knows, wherever they are.
    branches_in_doubt: u64,
}

#[derive(Debug, Serialize)]
struct InDoubtRecord {
    resource: String,
    xid: String,
    ours: bool,
    gtid: Option<String>,
    branch_id: Option<u32>,
    verdict: Option<String>,
    first_seen_at: Option<String>,
    #[serde(skip)]
    first_seen_ms: Option<i64>,
}

#[derive(Debug, Serialize)]
struct UnreachableRecord {
    resource: String,
    error: String,
}

impl From<v1::ListInDoubtResponse> for InDoubtListing {
    fn from(response: v1::ListInDoubtResponse) -> Self {
        let branch = |branch: v1::InDoubtBranch| InDoubtRecord {
            resource: branch.resource,
            xid: branch.xid,
            ours: branch.ours,
            gtid: non_empty(branch.gtid),
            branch_id: branch.ours.then_some(branch.branch_id),
            verdict: non_empty(branch.verdict),
            first_seen_ms: branch.first_seen_at.as_ref().map(unix_ms),
            first_seen_at: rfc3339(branch.first_seen_at),
        };
        let unreachable = |resource: v1::UnreachableResource| UnreachableRecord {
            resource: resource.resource,
            error: resource.error,
        };
        InDoubtListing {
            branches: response.branches.into_iter().map(branch).collect(),
            unreachable: response.unreachable.into_iter().map(unreachable).collect(),
            asked: response.asked,
            branches_in_doubt: response.branches_in_doubt,
        }
    }
}

impl InDoubtRecord {
    fn row(&self, look: &Look) -> Vec<Cell> {
        let verdict = match self.verdict.as_deref() {
            Some("undecided") => Cell::new("undecided").tone(Tone::Busy),
            Some(verdict) => Cell::new(verdict),
            None if self.ours => Cell::none(),
            None => Cell::new("foreign, left alone").tone(Tone::Quiet),
        };
        vec![
            Cell::new(&self.resource),
            self.gtid.as_ref().map_or_else(Cell::none, Cell::new),
            self.branch_id.map_or_else(Cell::none, |id| id.to_string().into()),
            verdict,
            // No sweep has found it before.
            self.first_seen_ms.map_or_else(|| Cell::new("just now"), |ms| ago(ms, look)),
            Cell::new(&self.xid),
        ]
    }
}

impl View for InDoubtListing {
    fn text(&self, look: &Look) -> String {
        let mut out = match (self.branches.is_empty(), self.asked.as_slice()) {
            // What could not be asked may have some.
            (true, []) if !self.unreachable.is_empty() => String::new(),
            (true, []) => "no database was asked: no resource is configured ([[resource]])\n".to_owned(),
            (true, asked) => format!("no branches in doubt on {}\n", asked.join(", ")),
            (false, _) => {
                let heading = ["RESOURCE", "GTID", "BRANCH", "VERDICT", "FIRST SEEN", "XID"];
                table(look, &heading, self.branches.iter().map(|branch| branch.row(look)))
            }
        };
        for UnreachableRecord { resource, error } in &self.unreachable {
            let warning = Cell::new(format!("{resource} could not be asked: {error}")).tone(Tone::Alarm);
            let _ = writeln!(out, "{}", warning.paint(look));
        }
        let listed = self.branches.iter().filter(|branch| branch.ours).count() as u64;
        if self.branches_in_doubt > listed {
            let _ = writeln!(
                out,
                "Branches that have voted yes and have not ended, as far as the coordinator knows: {} (concord tx list --state \
                 preparing,committing,rolling-back)",
                self.branches_in_doubt
            );
        }
        out
    }
}

/// The coordinator itself.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct StatusReport {
    version: String,
    /// In hexadecimal, as it stands in an XID.
    cluster_id: String,
    epoch: u32,
    started_at: Option<String>,
    /// It begins no transaction.
    draining: bool,
    live_transactions: u64,
    parked_transactions: u64,
    begun: u64,
    committed: u64,
    rolled_back: u64,
    heuristic_branches: u64,
    refused_branches: u64,
    log_syncs: u64,
    log_records: u64,
    calls: u64,
    calls_failed: u64,
    #[serde(skip)]
    started: Option<Timestamp>,
}

impl From<v1::GetStatusResponse> for StatusReport {
    fn from(status: v1::GetStatusResponse) -> Self {
        StatusReport {
            version: status.version,
            cluster_id: format!("{:016x}", status.cluster_id),
            epoch: status.epoch,
            started_at: rfc3339(status.started_at),
            draining: status.draining,
            live_transactions: status.live_transactions,
            parked_transactions: status.parked_transactions,
            begun: status.begun,
            committed: status.committed,
            rolled_back: status.rolled_back,
            heuristic_branches: status.heuristic_branches,
            refused_branches: status.refused_branches,
            log_syncs: status.log_syncs,
            log_records: status.log_records,
            calls: status.calls,
            calls_failed: status.calls_failed,
            started: status.started_at,
        }
    }
}

impl View for StatusReport {
    fn text(&self, look: &Look) -> String {
        let alarm = |count: u64| {
            let cell = Cell::new(count.to_string());
            Some(if count > 0 { cell.tone(Tone::Alarm) } else { cell })
        };
        let started = self.started.as_ref().map(|at| span(look.now_ms.saturating_sub(unix_ms(at))));
        let (draining, tone) = match self.draining {
            true => (", draining", Tone::Alarm),
            false => ("", Tone::Good),
        };
        let up = started.map(|age| Cell::new(format!("up for {age}{draining}")).tone(tone));
        facts(
            look,
            [
                ("coordinator", up.or_else(|| Some("up".into()))),
                ("version", Some(Cell::new(&self.version))),
                ("cluster", Some(Cell::new(&self.cluster_id))),
                ("epoch", Some(self.epoch.to_string().into())),
                ("live transactions", Some(self.live_transactions.to_string().into())),
                ("parked transactions", alarm(self.parked_transactions)),
                ("begun", Some(self.begun.to_string().into())),
                ("committed", Some(self.committed.to_string().into())),
                ("rolled back", Some(self.rolled_back.to_string().into())),
                ("heuristic branches", alarm(self.heuristic_branches)),
                ("refused branches", alarm(self.refused_branches)),
                (
                    "log",
                    Some(
                        format!(
                            "{} in {}",
                            counted(self.log_records, "record"),
                            counted(self.log_syncs, "sync")
                        )
                        .into(),
                    ),
                ),
                ("calls", Some(format!("{}, of which {} failed", self.calls, self.calls_failed).into())),
            ],
        )
    }
}

/// How far a drain has come.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct DrainReport {
    live_transactions: u64,
    undecided_transactions: u64,
    decided_transactions: u64,
    parked_transactions: u64,
    stopping: bool,
    is_shared: bool,
}

impl From<v1::DrainResponse> for DrainReport {
    fn from(step: v1::DrainResponse) -> Self {
        let v1::DrainResponse { live_transactions, stopping, is_shared, .. } = step;
        let v1::DrainResponse { undecided_transactions, decided_transactions, parked_transactions, .. } =
            step;
        DrainReport {
            live_transactions,
            undecided_transactions,
            decided_transactions,
            parked_transactions,
            stopping,
            is_shared,
        }
    }
}

impl DrainReport {
    /// On one line.
    pub(in crate::cli) fn step(&self, _: &Look) -> String {
        match (self.live_transactions, self.stopping, self.is_shared) {
            (live, false, _) => format!("draining; live transactions: {live}{}", self.parts(["", "", ""])),
            (0, true, _) => "the coordinator stops; no transaction is left".to_owned(),
            (live, true, true) => {
                let undecided = ", rolled back unless an initiator drives them";
                let parts = self.parts([undecided, ", delivered", ", waiting for an operator"]);
                format!("the coordinator stops; transactions left to the other coordinators: {live}{parts}")
            }
            (live, true, false) => {
                let parts = self.parts([", rolled back", ", delivered", ", waiting for an operator"]);
                format!("the coordinator stops; transactions left to its next start: {live}{parts}")
            }
        }
    }

    /// What is live, apart, each with what becomes of it. Of an older coordinator that is not known.
    fn parts(&self, fates: [&str; 3]) -> String {
        let counts = [
            (self.undecided_transactions, "undecided"),
            (self.decided_transactions, "decided"),
            (self.parked_transactions, "parked"),
        ];
        let parts = counts.iter().zip(fates).filter(|((count, _), _)| *count > 0);
        let parts: Vec<_> = parts.map(|((count, kind), fate)| format!("{count} {kind}{fate}")).collect();
        if parts.is_empty() { String::new() } else { format!(" ({})", parts.join("; ")) }
    }
}

impl View for DrainReport {
    fn text(&self, look: &Look) -> String {
        self.step(look) + "\n"
    }
}

fn ago(ms: i64, look: &Look) -> Cell {
    format!("{} ago", span(look.now_ms.saturating_sub(ms))).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { colour: false, now_ms: 1_700_000_010_000, width: None };
    const SEEN: Option<Timestamp> = Some(Timestamp { seconds: 1_700_000_000, nanos: 0 });

    #[test]
    fn a_drain_says_what_becomes_of_what_is_left() {
        let step = |stopping, is_shared, [undecided, decided, parked]: [u64; 3]| {
            let report = DrainReport::from(v1::DrainResponse {
                live_transactions: undecided + decided + parked,
                undecided_transactions: undecided,
                decided_transactions: decided,
                parked_transactions: parked,
                stopping,
                is_shared,
            });
            report.step(&PLAIN)
        };
        assert_eq!(
            step(false, false, [1, 2, 3]),
            "draining; live transactions: 6 (1 undecided; 2 decided; 3 parked)"
        );
        assert_eq!(step(true, true, [0, 0, 0]), "the coordinator stops; no transaction is left");
        assert_eq!(
            step(true, false, [1, 2, 3]),
            "the coordinator stops; transactions left to its next start: 6 (1 undecided, rolled back; 2 decided, delivered; \
             3 parked, waiting for an operator)"
        );
        assert_eq!(
            step(true, true, [1, 0, 0]),
            "the coordinator stops; transactions left to the other coordinators: 1 (1 undecided, rolled back unless an \
             initiator drives them)"
        );
        let older = v1::DrainResponse { live_transactions: 4, stopping: true, ..Default::default() };
        assert_eq!(
            DrainReport::from(older).step(&PLAIN),
            "the coordinator stops; transactions left to its next start: 4"
        );
    }

    #[test]
    fn resources() {
        let resource = v1::Resource {
            name: "bank-a".into(),
            address: "127.0.0.1:3306/bank".into(),
            server: "MariaDB 10.11.14".into(),
            reachable: true,
            in_doubt_ours: 2,
            swept_at: SEEN,
            participants: vec!["http://127.0.0.1:7101".into()],
            ..v1::Resource::default()
        };
        let down =
            v1::Resource { name: "b".into(), error: "connection refused".into(), ..v1::Resource::default() };
        let listing = ResourceListing::from(v1::ListResourcesResponse { resources: vec![resource, down] });
        let expected = "\
NAME    ADDRESS              SERVER            STATUS              IN DOUBT  FOREIGN  COMMITTED  ROLLED BACK  SWEPT
bank-a  127.0.0.1:3306/bank  MariaDB 10.11.14  reachable           2         0        0          0            10.0s ago
b                            -                 connection refused  0         0        0          0            never
";
        assert_eq!(listing.text(&PLAIN), expected);
        let json = serde_json::to_value(&listing).unwrap();
        assert_eq!(json["resources"][0]["swept_at"], "2023-11-14T22:13:20Z");
        assert_eq!(json["resources"][1]["error"], "connection refused");
        assert_eq!(json["resources"][1]["server"], serde_json::Value::Null);
    }

    #[test]
    fn in_doubt() {
        let ours = v1::InDoubtBranch {
            resource: "bank-a".into(),
            xid: "0x01,0x02,1".into(),
            ours: true,
            gtid: "018bcfe5-6800-8000-8000-040000000001".into(),
            branch_id: 2,
            verdict: "commit".into(),
            first_seen_at: SEEN,
        };
        let foreign = v1::InDoubtBranch { xid: "0x0a,0x0b,7".into(), ours: false, ..Default::default() };
        let unreachable = v1::UnreachableResource { resource: "b".into(), error: "no route".into() };
        let response = v1::ListInDoubtResponse {
            branches: vec![ours, foreign],
            unreachable: vec![unreachable],
            ..Default::default()
        };
        let listing = InDoubtListing::from(response);
        let expected = "\
RESOURCE  GTID                                  BRANCH  VERDICT              FIRST SEEN  XID
bank-a    018bcfe5-6800-8000-8000-040000000001  2       commit               10.0s ago   0x01,0x02,1
          -                                     -       foreign, left alone  just now    0x0a,0x0b,7
b could not be asked: no route
";
        assert_eq!(listing.text(&PLAIN), expected);
        let json = serde_json::to_value(&listing).unwrap();
        assert_eq!(json["branches"][0]["branch_id"], 2);
        assert_eq!(json["branches"][1]["branch_id"], serde_json::Value::Null);
        assert_eq!(json["unreachable"][0]["resource"], "b");

        let nothing = InDoubtListing { branches: vec![], ..listing };
        assert_eq!(nothing.text(&PLAIN), "b could not be asked: no route\n");
        let nothing = InDoubtListing { unreachable: vec![], ..nothing };
        assert_eq!(nothing.text(&PLAIN), "no database was asked: no resource is configured ([[resource]])\n");
        let asked = vec!["a".to_owned(), "b".to_owned()];
        let nothing = InDoubtListing { asked, branches_in_doubt: 2, ..nothing };
        let expected = "\
no branches in doubt on a, b
Branches that have voted yes and have not ended, as far as the coordinator knows: 2 (concord tx list --state preparing,committing,rolling-back)
";
        assert_eq!(nothing.text(&PLAIN), expected);
    }

    #[test]
    fn status() {
        let status = v1::GetStatusResponse {
            version: "0.1.0".into(),
            cluster_id: 0xabc,
            epoch: 3,
            started_at: SEEN,
            log_records: 12,
            log_syncs: 4,
            ..Default::default()
        };
        let report = StatusReport::from(status);
        let text = report.text(&PLAIN);
        assert!(text.starts_with("coordinator          up for 10.0s\n"), "{text}");
        assert!(text.contains("cluster              0000000000000abc\n"), "{text}");
        assert!(text.contains("log                  12 records in 4 syncs\n"), "{text}");
        assert_eq!(serde_json::to_value(&report).unwrap()["cluster_id"], "0000000000000abc");
    }
}
