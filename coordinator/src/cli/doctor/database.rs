//! The databases that the coordinator reaches itself: the resources', and that of a shared store.

use std::time::Instant;

use concord_coordinator::config::{DatabaseUrl, Resource};
use concord_coordinator::store::{StoreError, UnixMillis, examine};
use concord_xa::{Database, Fault, Flavor, Leniency, Options, XaError};

use super::{Finding, clock};

/// A session is enough for questions.
const SESSIONS: usize = 1;
/// Access denied to a user, to a database; a right that is missing.
const DENIED: [u16; 4] = [1044, 1045, 1698, 1227];
/// What XA RECOVER answers to those who may not ask.
const MAY_NOT_RECOVER: [u16; 2] = [1401, 1227];

/// A `[[resource]]`.
pub(super) async fn resource(resource: &Resource) -> Vec<Finding> {
    let subject = format!("resource {}", resource.name);
    let url = resource.url.with_password();
    let (connected, mut findings) = match Database::connect(url, options(Leniency::default())).await {
        // What can be lost is one thing; whether the rest would do is another.
        Err(XaError::Unfit(faults)) => {
            let lenient = Leniency { allow_relaxed_durability: true, ..Leniency::default() };
            (Database::connect(url, options(lenient)).await, settings(&subject, faults))
        }
        connected => (connected, Vec::new()),
    };
    match connected {
        Ok(database) => {
            let found = format!("{} at {}", database.server_info(), resource.url.address());
            findings.insert(0, Finding::ok("server", &subject, found));
            if findings.len() == 1 {
                findings.push(Finding::ok("settings", &subject, "its settings are fit for XA"));
            }
            findings.extend(clock_of(&subject, &database).await);
            findings.push(in_doubt(&subject, &database).await);
        }
        Err(XaError::Unfit(_)) => {}
        Err(error) => findings.push(unreachable(&subject, &resource.url, &error)),
    }
    findings
}

fn options(leniency: Leniency) -> Options {
    Options { sessions_max: SESSIONS, control_sessions_max: SESSIONS, leniency, ..Options::default() }
}

fn settings(subject: &str, faults: Vec<Fault>) -> Vec<Finding> {
    let finding = |fault: Fault| Finding::failure("settings", subject, fault.found, fault.mend);
    faults.into_iter().map(finding).collect()
}

fn unreachable(subject: &str, url: &DatabaseUrl, error: &XaError) -> Finding {
    let mend = match error {
        XaError::Server { code, .. } if DENIED.contains(code) => {
            "correct the user and the password in its url, or grant the user what it needs".to_owned()
        }
        XaError::Url(_) => "correct its url; `concord config example` shows its form".to_owned(),
        _ => format!(
            "see that the server runs and can be reached from this machine at {}: name, port, firewall, TLS",
            url.address()
        ),
    };
    Finding::failure("server", subject, error.to_string(), mend)
}

async fn clock_of(subject: &str, database: &Database) -> Option<Finding> {
    let (asked, start) = (UnixMillis::now(), Instant::now());
    // That it cannot be reached any more is told by the next question.
    let there = database.clock_ms().await.ok()?;
    let round_trip_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let here = asked.0.saturating_add(round_trip_ms / 2).cast_signed();
    Some(clock::compare(subject, there.saturating_sub(here), round_trip_ms))
}

/// What XA RECOVER shows, and whether it may be asked at all.
async fn in_doubt(subject: &str, database: &Database) -> Finding {
    let listed = match database.recover().await {
        Ok(listed) => listed,
        Err(XaError::Server { code, message, .. }) if MAY_NOT_RECOVER.contains(&code) => {
            let mend = match database.server_info().flavor {
                Flavor::MySql => {
                    "GRANT XA_RECOVER_ADMIN ON *.* TO the user of its url; without it the sweeper is blind here"
                }
                Flavor::MariaDb => "see the server's log: MariaDB asks for no right to do this",
            };
            return Finding::failure("in doubt", subject, format!("XA RECOVER: {message}"), mend);
        }
        Err(error) => {
            let mend = "see that the server runs, and look again";
            return Finding::failure("in doubt", subject, format!("XA RECOVER: {error}"), mend);
        }
    };
    let ours = listed.iter().filter(|branch| branch.xid.is_some()).count();
    match (ours, listed.len() - ours) {
        (0, 0) => Finding::ok("in doubt", subject, "no branch is in doubt"),
        (ours, others) => {
            let found = format!("branches in doubt: {ours} made by Concord, {others} by others");
            let mend = "while transactions are under way that is as it should be; if they stay, `concord resource in-doubt` says \
                        what each waits for. It asks the coordinator, which has to run: only that knows their decisions, and \
                        ends them";
            Finding::warning("in doubt", subject, found, mend)
        }
    }
}

/// The database of a shared store.
pub(super) async fn store(url: &DatabaseUrl) -> Vec<Finding> {
    const SUBJECT: &str = "store";
    let found = match examine(url.with_password()).await {
        Ok(found) => found,
        Err(error) => return vec![no_store(SUBJECT, url, &error)],
    };
    let mut findings = vec![Finding::ok("server", SUBJECT, format!("{} at {}", found.server, url.address()))];
    match found.faults.is_empty() {
        true => findings.push(Finding::ok("settings", SUBJECT, "its settings are durable")),
        false => findings.extend(settings(SUBJECT, found.faults)),
    }
    findings.push(clock::compare(SUBJECT, found.clock_ahead_ms, found.round_trip_ms));
    findings.push(match found.coordinators {
        None => Finding::ok("coordinators", SUBJECT, "no tables yet; the first coordinator makes them"),
        Some(alive) => Finding::ok("coordinators", SUBJECT, format!("coordinators alive: {alive}")),
    });
    findings
}

fn no_store(subject: &str, url: &DatabaseUrl, error: &StoreError) -> Finding {
    let mend = match error {
        StoreError::NewerSchema { .. } => {
            "run the version of concord that the other coordinators are".to_owned()
        }
        _ => format!(
            "see that the server runs and can be reached from this machine at {}, and that user, password and database are right",
            url.address()
        ),
    };
    Finding::failure("server", subject, error.to_string(), mend)
}
