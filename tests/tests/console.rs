//! The web console in a real browser, against a real coordinator. Needs `chromium` and `chromedriver`; .ci/run installs them.
//! What it looked like is in `target/console/`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::process::ChildStdout;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use concord_coordinator::security::{Role, new_token};
use concord_proto::v1::participant_server::{Participant, ParticipantServer};
use concord_proto::v1::*;
use concord_sandbox::Address;
use concord_tests::{Coordinator, CoordinatorOptions, Process, Programs, until};
use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::LoggingPrefsLogLevel;
use thirtyfour::prelude::*;
use tonic::{Request, Response, Status};

const PROGRAMS: Programs = concord_tests::programs!();
/// Markup, where somebody might put it.
const NAME: &str = "<img src=x onerror=alert(1)> order";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stuck_is_seen_and_ended() {
    let directory = TempDir::new().unwrap();
    let mut coordinator =
        Coordinator::start(PROGRAMS, directory.path(), CoordinatorOptions::new()).await.unwrap();
    let shop = Shop::start().await;
    for _ in 0..3 {
        let done = coordinator.api().execute(shop.order("paid", Wait::Completed)).await.unwrap().into_inner();
        assert_eq!(done.transaction.unwrap().state(), TransactionState::Committed);
    }
    let [retried, forced] = [shop.stuck(&coordinator).await, shop.stuck(&coordinator).await];
    let browser = Browser::start(directory.path()).await;
    browser.open(&format!("{}/", coordinator.url())).await;

    // The overview says what is stuck, and why.
    browser.sees("h1", "Overview").await;
    browser.sees(".tile.bad .name", "parked").await;
    browser.sees("td code", &retried).await;
    browser.sees("td", "not on a Sunday").await;
    browser.sees("td", NAME).await;
    browser.sees("#connection", "live").await;
    browser.sees(".legend", "committed").await;
    browser.picture("overview").await;

    // One of them: its story, and an order.
    browser.keys("j").await;
    browser.keys("\u{e007}").await;
    browser.sees("h1", "confirming").await;
    browser.sees("h1", "parked").await;
    for event in ["begun", "decided", "parked"] {
        browser.sees(".timeline strong", event).await;
    }
    browser.sees(".timeline + p", "of those that did not").await;
    browser.picture("transaction").await;
    shop.open_on_sundays.store(true, Ordering::SeqCst);
    browser.go(&format!("#/transactions/{retried}")).await;
    browser.click("[data-order=retry]").await;
    // Somebody has to answer for it.
    browser.sees("dialog h2", "Retry").await;
    browser.fill("dialog [name=operator]", "ann").await;
    browser.click("dialog button.primary").await;
    browser.sees("h1 .state", "committed").await;
    browser.sees(".orders", "It has ended").await;
    browser.sees(".timeline + p", "Only what is on record").await;
    shop.open_on_sundays.store(false, Ordering::SeqCst);

    // The other one is forced, by somebody, for a reason.
    browser.go(&format!("#/transactions/{forced}")).await;
    browser.click("[data-order=resolve]").await;
    browser.sees("dialog", "the databases will disagree").await;
    browser.click("dialog button.danger").await;
    browser.sees("dialog h2", "Force an outcome").await;
    browser.fill("dialog [name=operator]", "ann").await;
    browser.fill("dialog [name=reason]", "booked by hand").await;
    browser.script("document.querySelector('dialog [name=outcome]').selectedIndex = 1", json!(null)).await;
    browser.picture("force").await;
    browser.click("dialog button.danger").await;
    browser.sees("h1 .state", "committed").await;
    browser.sees(".timeline", "ann").await;
    browser.sees(".timeline", "booked by hand").await;
    let kept = coordinator.api().get(GetRequest { gtid: forced.clone() }).await.unwrap().into_inner();
    let kept = kept.transaction.unwrap();
    assert_eq!(kept.state(), TransactionState::Committed);
    assert!(kept.history.iter().any(|event| event.detail.contains("booked by hand")), "{kept:?}");

    // Looking for things.
    browser.keys("g").await;
    browser.keys("t").await;
    browser.sees("h1", "Transactions").await;
    browser.rows(5).await;
    browser.keys("/").await;
    browser.keys(&forced[..13]).await;
    browser.rows(1).await;
    browser.picture("search").await;
    browser.fill("#search", "no such thing").await;
    browser.sees(".nothing", "Nothing is like this").await;

    // The others; in the dark, and on a phone.
    browser.go("#/resources").await;
    browser.sees(".nothing", "No resource is configured").await;
    browser.go("#/participants").await;
    browser.sees("td", &shop.address.url()).await;
    browser.picture("participants").await;
    browser.keys("?").await;
    browser.sees("dialog kbd", "g o").await;
    browser.keys("\u{e00c}").await;
    browser.go("#/transactions").await;
    browser.rows(5).await;
    browser.on_a_phone_in_the_dark().await;
    browser.picture("phone").await;
    let width = browser.script("return document.documentElement.scrollWidth", json!(null)).await;
    assert!(width.as_u64().unwrap() <= 390, "nothing is cut off: {width}");

    // Not the page's, nor its policy's.
    assert_eq!(browser.complaints().await, Vec::<String>::new());

    // A coordinator that is gone is not shown as if it were there.
    coordinator.kill9().unwrap();
    browser.sees("#connection.bad", "does not answer").await;
    coordinator.restart().await.unwrap();
    browser.sees("#connection.good", "live").await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_are_stuck_the_oldest_are_shown() {
    let directory = TempDir::new().unwrap();
    let coordinator =
        Coordinator::start(PROGRAMS, directory.path(), CoordinatorOptions::new()).await.unwrap();
    let shop = Shop::start().await;
    let mut stuck = Vec::new();
    for _ in 0..21 {
        stuck.push(shop.stuck(&coordinator).await);
    }
    let browser = Browser::start(directory.path()).await;
    browser.open(&format!("{}/", coordinator.url())).await;
    browser.rows(20).await;
    assert_eq!(browser.texts("td code").await, stuck[..20]);
    browser.sees(".more", "The oldest 20 of 21").await;
    browser.click(".more a").await;
    browser.sees("h1", "Transactions").await;
    browser.rows(21).await;
    browser.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_token_sees_nothing() {
    let directory = TempDir::new().unwrap();
    let [ann, bob, eve] =
        [("ann", Role::Operator, None), ("bob", Role::Viewer, None), ("eve", Role::Operator, Some("shop"))]
            .map(|(name, role, tenant)| new_token(name, &[role], None, tenant.map(str::to_owned)).unwrap());
    let tokens = directory.path().join("tokens.toml");
    std::fs::write(&tokens, format!("{}{}{}", ann.entry, bob.entry, eve.entry)).unwrap();
    let options = CoordinatorOptions::new().set("security.tokens", tokens.display());
    let coordinator = Coordinator::start(PROGRAMS, directory.path(), options).await.unwrap();
    let browser = Browser::start(directory.path()).await;
    browser.open(&format!("{}/", coordinator.url())).await;
    browser.sees("dialog", "wants to know who asks").await;
    browser.picture("sign-in").await;
    browser.fill("dialog [name=token]", "concord_0000").await;
    browser.click("dialog button.primary").await;
    browser.sees("dialog", "not a token of this coordinator").await;
    browser.fill("dialog [name=token]", &bob.token).await;
    browser.click("dialog button.primary").await;
    browser.sees("#connection.good", "live").await;
    browser.sees("h1", "Overview").await;
    // It leaves with who had it.
    browser.click("#door").await;
    browser.sees("dialog", "wants to know who asks").await;
    browser.fill("dialog [name=token]", &ann.token).await;
    browser.click("dialog button.primary").await;
    browser.sees("#connection.good", "live").await;
    browser.sees(".tile", "parked").await;

    // To a tenant's operator it tells what it may, and that there is more.
    browser.click("#door").await;
    browser.sees("dialog", "wants to know who asks").await;
    browser.fill("dialog [name=token]", &eve.token).await;
    browser.click("dialog button.primary").await;
    browser.sees(".nothing", "This token is of one tenant").await;
    browser.sees(".nothing", "Nothing is parked").await;
    assert!(browser.texts(".tile").await.is_empty());
    browser.picture("tenant").await;
    for (view, title) in [("#/participants", "Participants"), ("#/resources", "Resources")] {
        browser.go(view).await;
        browser.sees("h1", title).await;
        browser.sees(".nothing", "for who sees all tenants").await;
        browser.sees("#connection.good", "live").await;
    }
    browser.end().await;
}

/// A participant that takes orders, and confirms some only when it is open.
#[derive(Clone)]
struct Shop {
    address: Arc<Address>,
    open_on_sundays: Arc<AtomicBool>,
}

impl Shop {
    /// Serves until the test's runtime ends.
    async fn start() -> Shop {
        let address = Arc::new(Address::reserve().unwrap());
        let listener = tokio::net::TcpListener::bind(address.socket()).await.unwrap();
        let shop = Shop { address, open_on_sundays: Arc::default() };
        let server = tonic::transport::Server::builder().add_service(ParticipantServer::new(shop.clone()));
        tokio::spawn(server.serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)));
        shop
    }

    fn order(&self, action: &str, wait: Wait) -> ExecuteRequest {
        let branch = BranchRequest {
            kind: BranchKind::Tcc.into(),
            participant: self.address.url(),
            action: action.into(),
            payload: Default::default(),
        };
        let branches = vec![branch.clone(), branch];
        ExecuteRequest { name: NAME.into(), branches, wait: wait.into(), ..ExecuteRequest::default() }
    }

    /// A transaction that waits for an operator.
    async fn stuck(&self, coordinator: &Coordinator) -> String {
        let begun =
            coordinator.api().execute(self.order("on Sunday", Wait::Decided)).await.unwrap().into_inner();
        let gtid = begun.transaction.unwrap().gtid;
        until("it is parked", async || {
            let found = coordinator.api().get(GetRequest { gtid: gtid.clone() }).await?.into_inner();
            Ok(found.transaction.is_some_and(|one| one.parked).then_some(()))
        })
        .await
        .unwrap();
        gtid
    }
}

#[tonic::async_trait]
impl Participant for Shop {
    async fn r#try(&self, _: Request<TryRequest>) -> Result<Response<TryResponse>, Status> {
        Ok(Response::new(TryResponse { reserved: true, ..Default::default() }))
    }

    async fn confirm(&self, request: Request<ConfirmRequest>) -> Result<Response<ConfirmResponse>, Status> {
        let on_sunday = request.into_inner().work.unwrap().action == "on Sunday";
        let (outcome, reason) = match on_sunday && !self.open_on_sundays.load(Ordering::SeqCst) {
            true => (BranchOutcome::Refused, "not on a Sunday"),
            false => (BranchOutcome::Committed, ""),
        };
        let answer = ConfirmResponse { outcome: outcome.into(), reason: reason.into(), ..Default::default() };
        Ok(Response::new(answer))
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        Ok(Response::new(CancelResponse { outcome: BranchOutcome::RolledBack.into(), ..Default::default() }))
    }

    async fn work(&self, _: Request<WorkRequest>) -> Result<Response<WorkResponse>, Status> {
        Err(Status::unimplemented("TCC only"))
    }

    async fn prepare(&self, _: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        Err(Status::unimplemented("TCC only"))
    }

    async fn commit(
        &self,
        _: Request<CommitBranchRequest>,
    ) -> Result<Response<CommitBranchResponse>, Status> {
        Err(Status::unimplemented("TCC only"))
    }

    async fn rollback(
        &self,
        _: Request<RollbackBranchRequest>,
    ) -> Result<Response<RollbackBranchResponse>, Status> {
        Err(Status::unimplemented("TCC only"))
    }
}

/// Chromium, driven by chromedriver.
struct Browser {
    driver: WebDriver,
    /// Killed when it is dropped; it ends when nobody holds what it could say.
    _chromedriver: (Process, ChildStdout),
    pictures: PathBuf,
}

impl Browser {
    async fn start(directory: &std::path::Path) -> Browser {
        let address = Address::reserve().unwrap();
        let mut chromedriver = Process::new("chromedriver", "chromedriver", directory);
        chromedriver.set_arguments(vec![format!("--port={}", address.socket().port()).into()]);
        let output = chromedriver.start().unwrap();
        let mut wishes = DesiredCapabilities::chrome();
        for argument in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1400,1000",
        ] {
            wishes.add_arg(argument).unwrap();
        }
        wishes.set_browser_log_level(LoggingPrefsLogLevel::All).unwrap();
        let driver = until("the browser has started", async || {
            Ok(WebDriver::new(address.url(), wishes.clone()).await.ok())
        });
        let pictures = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("console");
        std::fs::create_dir_all(&pictures).unwrap();
        Browser { driver: driver.await.unwrap(), _chromedriver: (chromedriver, output), pictures }
    }

    async fn open(&self, url: &str) {
        self.driver.goto(url).await.unwrap();
    }

    async fn go(&self, hash: &str) {
        self.script("location.hash = arguments[0]", json!(hash)).await;
    }

    async fn script(&self, script: &str, argument: Value) -> Value {
        self.driver.execute(script, vec![argument]).await.unwrap().json().clone()
    }

    /// What stands in the elements that a selector finds.
    async fn texts(&self, selector: &str) -> Vec<String> {
        let script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)";
        serde_json::from_value(self.script(script, json!(selector)).await).unwrap()
    }

    /// Waits until a text stands there.
    async fn sees(&self, selector: &str, text: &str) {
        let what = format!("{selector} says {text:?}");
        let seen = async || Ok(self.texts(selector).await.iter().any(|one| one.contains(text)).then_some(()));
        if let Err(error) = until(&what, seen).await {
            self.picture("failed").await;
            panic!(
                "{error}; the page: {:?}; the browser: {:?}",
                self.texts("body").await,
                self.complaints().await
            );
        }
    }

    /// Waits until the table has so many rows.
    async fn rows(&self, count: usize) {
        let seen = async || Ok((self.texts("tbody tr").await.len() == count).then_some(()));
        until(&format!("{count} rows"), seen).await.unwrap();
    }

    /// Types wherever the focus is.
    async fn keys(&self, keys: &str) {
        self.driver.action_chain().send_keys(keys).perform().await.unwrap();
    }

    async fn click(&self, selector: &str) {
        let click = async || {
            let Ok(element) = self.driver.find(By::Css(selector)).await else { return Ok(None) };
            // It may have been replaced meanwhile.
            Ok(element.click().await.ok())
        };
        until(&format!("{selector} can be clicked"), click).await.unwrap();
    }

    async fn fill(&self, selector: &str, text: &str) {
        let field = self.driver.find(By::Css(selector)).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    async fn on_a_phone_in_the_dark(&self) {
        let tools = self.driver.cdp();
        let phone = json!({ "width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true });
        tools.send_raw("Emulation.setDeviceMetricsOverride", phone).await.unwrap();
        let dark = json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
        tools.send_raw("Emulation.setEmulatedMedia", dark).await.unwrap();
    }

    async fn picture(&self, name: &str) {
        let picture = self.driver.screenshot_as_png().await.unwrap();
        std::fs::write(self.pictures.join(format!("{name}.png")), picture).unwrap();
    }

    /// What the browser has logged as wrong: errors of scripts, breaches of the page's policy, files that are not there.
    async fn complaints(&self) -> Vec<String> {
        let log = self.driver.browser_log().await.unwrap();
        log.into_iter().map(|entry| format!("{entry:?}")).collect()
    }

    async fn end(self) {
        self.driver.quit().await.unwrap();
    }
}
