//! Where calls belong in a trace, and what log lines carry.

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::Value;

use crate::on_both;
use crate::support::*;

const STATE: &str = "congo=t61rcWkgMzE";

fn trace() -> TraceContext {
    TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", STATE).unwrap()
}

fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    trace().add_to(request.metadata_mut());
    request
}

/// What this process has logged since the first test here began.
static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LINES.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn listen() {
    static LISTENING: OnceLock<()> = OnceLock::new();
    LISTENING.get_or_init(|| {
        tracing_subscriber::fmt().json().with_writer(|| Lines).with_max_level(tracing::Level::DEBUG).init();
    });
}

/// The lines about a transaction: verb, message and trace.
fn lines(gtid: Gtid) -> Vec<(String, String, Option<String>)> {
    let all = String::from_utf8(LINES.lock().unwrap().clone()).unwrap();
    let about = all.lines().filter(|line| line.contains(&gtid.to_string()));
    let told = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let (span, text) = (&line["span"], |value: &Value| value.as_str().map(str::to_owned));
        assert_eq!((&span["name"], &span["gtid"]), (&"branch".into(), &gtid.to_string().into()), "{line}");
        assert_eq!(span["branch_id"], "1", "{line}");
        (text(&span["verb"]).unwrap(), text(&line["fields"]["message"]).unwrap(), text(&span["trace_id"]))
    };
    about.map(told).collect()
}

/// Where handlers have been told that they are.
type Places = Arc<Mutex<Vec<Option<TraceContext>>>>;

async fn tell(mut tcc: TccBranch<MySql>, places: Places) -> Result<(), HandlerError> {
    tcc.query("SELECT 1", Vec::new()).await?;
    places.lock().unwrap().push(tcc.trace().cloned());
    tracing::info!("at work");
    Ok(())
}

on_both! {
    async fn handlers_learn_their_place_and_their_lines_carry_it(flavor) {
        listen();
        let world = World::new(flavor).await;
        let places = Places::default();
        let tcc = || {
            let places = Arc::clone(&places);
            move |tcc: TccBranch<MySql>, _: Bytes| tell(tcc, Arc::clone(&places))
        };
        let seen = Arc::clone(&places);
        let builder = world.builder().tcc("order", tcc(), tcc(), tcc()).xa("take", move |mut xa: XaBranch, _: Bytes| {
            let seen = Arc::clone(&seen);
            async move {
                seen.lock().unwrap().push(xa.trace().cloned());
                tracing::info!("at work");
                xa.update_exactly("UPDATE account SET balance = balance - 1 WHERE id = 1", (), 1).await?;
                Ok(())
            }
        });
        let node = world.node_of(builder).await;
        let mut client = node.client.clone();
        let (xa, reserved, failed) = (gtid(), gtid(), gtid());

        client.prepare(traced(prepare(xa, job("take", "")))).await.unwrap();
        client.commit(traced(commit(xa))).await.unwrap();
        let branch = || context(reserved);
        let order = TryRequest { branch: branch(), work: job("order", ""), remaining_ms: 30_000 };
        assert!(client.r#try(traced(order)).await.unwrap().into_inner().reserved);
        client.confirm(traced(ConfirmRequest { branch: branch(), work: job("order", "") })).await.unwrap();
        assert_eq!(*places.lock().unwrap(), [Some(trace()), Some(trace()), Some(trace())]);
        let id = || Some(trace().trace_id().to_string());
        let at_work = |verb: &str| (verb.to_owned(), "at work".to_owned(), id());
        assert_eq!(lines(xa), [at_work("prepare")]);
        assert_eq!(lines(reserved), [at_work("try"), at_work("confirm")]);

        // Lines of the SDK's own.
        client.prepare(traced(prepare(failed, job("panic", "")))).await.unwrap();
        assert_eq!(lines(failed), [("prepare".to_owned(), "branch failed".to_owned(), id())]);

        // Nothing came, nothing is told.
        places.lock().unwrap().clear();
        let alone = gtid();
        client.prepare(prepare(alone, job("take", ""))).await.unwrap();
        assert_eq!(*places.lock().unwrap(), [None]);
        assert_eq!(lines(alone), [("prepare".to_owned(), "at work".to_owned(), None)]);
    }

    async fn who_joins_by_itself_says_where_and_the_coordinator_hears_it(flavor) {
        let world = World::new(flavor).await;
        let node = world.node_of(world.builder().tcc("order", nothing, nothing, nothing)).await;
        let place = async |xa: XaBranch| Ok(xa.trace().cloned());
        let told = node.participant.branch(gtid()).trace(Some(trace())).read_only().run(place).await.unwrap();
        assert_eq!(told, Some(trace()));
        node.participant.tcc_branch(gtid()).trace(Some(trace())).run("order", "").await.unwrap();
        // Two registrations, and two votes.
        assert_eq!(*world.script.traces.lock().unwrap(), vec![Some(trace()); 4]);
    }
}

async fn nothing(_: TccBranch<MySql>, _: Bytes) -> Result<(), HandlerError> {
    Ok(())
}
