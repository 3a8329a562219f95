//! What is read again while the coordinator runs.

use concord_proto::Credentials;
use concord_tests::{refusal, until};
use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;

use super::authority::Authority;
use super::program::{Concord, token};

#[tokio::test(flavor = "multi_thread")]
async fn limits_levels_and_targets_change_and_the_log_says_so() {
    let mut concord = Concord::new();
    let anybody = Credentials::new();
    concord.configure("[participants]\nallow = []\n");
    concord.start(&anybody).await;
    let answer = refusal(concord.execute(&anybody, "attached://shop").await);
    assert_eq!(answer, (Code::PermissionDenied, "PARTICIPANT_NOT_ALLOWED".into()));
    // What is wrong changes nothing, and is told.
    concord.configure("[participants]\nallow = ['nonsense']\n");
    let log = async |text: &str| {
        until(text, async || Ok(concord.process.log().contains(text).then_some(()))).await.unwrap();
    };
    log("the configuration has problems, and stays as it was").await;
    std::fs::write(
        concord.path("concord.toml"),
        "[participants]\nallow = ['attached://*']\n[limits]\nbranches_max = 1\npage_size_max = 77\n[log]\nfilter = 'debug'\n",
    )
    .unwrap();
    log("the configuration has changed key=limits.branches_max from=1000 to=1").await;
    log("this needs a restart key=limits.page_size_max from=1000 to=77").await;
    log("key=log.filter from=\"info\" to=\"debug\"").await;
    let answer = refusal(concord.execute(&anybody, "attached://shop").await);
    assert_eq!(answer, (Code::InvalidArgument, "INVALID_FIELD".into()), "two branches are too many now");

    // By signal too, though nothing has changed.
    let read_again = || concord.process.log().matches("were read again").count();
    let before = read_again();
    let pid = Pid::from_raw(i32::try_from(concord.process.pid().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    until("it is read again", async || Ok((read_again() > before).then_some(()))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_and_a_wrong_one_is_not() {
    let (mut concord, authority, next) = (Concord::new(), Authority::new(), Authority::new());
    let [pem, key] = authority.certify().write(concord.directory.path(), "server");
    concord.configure(&format!("[server]\ntls_certificate = {pem:?}\ntls_key = {key:?}\n"));
    concord.start(&authority.trusted()).await;
    // With another's key it is worth nothing.
    std::fs::write(&pem, next.certify().pem).unwrap();
    until("it is refused", async || {
        Ok(concord.process.log().contains("a file cannot be used").then_some(()))
    })
    .await
    .unwrap();
    concord.status(&authority.trusted()).await.unwrap();
    next.certify().write(concord.directory.path(), "server");
    until("the new one is shown", async || Ok(concord.status(&next.trusted()).await.ok())).await.unwrap();
    assert!(concord.status(&authority.trusted()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_taken_out_is_worth_nothing_whatever_else_is_wrong() {
    let (mut concord, authority) = (Concord::new(), Authority::new());
    let [pem, key] = authority.certify().write(concord.directory.path(), "server");
    let tokens = concord.path("tokens.toml");
    let ann = token(&tokens, "ann", &["--role", "operator"]).await;
    let ann = authority.trusted().token(&ann).unwrap();
    let config =
        format!("[server]\ntls_certificate = {pem:?}\ntls_key = {key:?}\n[security]\ntokens = {tokens:?}\n");
    concord.configure(&config);
    concord.start(&ann).await;
    concord.status(&ann).await.unwrap();
    std::fs::write(&pem, "no certificate").unwrap();
    std::fs::write(concord.path("concord.toml"), format!("{config}[nonsense]\n")).unwrap();
    std::fs::write(&tokens, "").unwrap();
    until("the token is forgotten", async || {
        let answer = concord.status(&ann).await;
        Ok(answer.is_err_and(|status| status.code() == Code::Unauthenticated).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_this_machine_it_does_not_listen_without() {
    let concord = Concord::new();
    let listen = format!("0.0.0.0:{}", concord.address.socket().port());
    let said = |output: std::process::Output| {
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let refused = said(concord.command(&["serve", "--listen", &listen]).await);
    assert!(
        refused.contains("beyond this machine") && refused.contains("security.allow_insecure"),
        "{refused}"
    );
    assert!(!concord.path("concord-data").exists(), "nothing was touched");
    std::fs::write(concord.path("c.toml"), "[security]\ntokens = 'nowhere'\n").unwrap();
    let refused = said(concord.command(&["config", "check", "c.toml"]).await);
    assert!(refused.contains("security.tokens = \"nowhere\": cannot be read"), "{refused}");
}
