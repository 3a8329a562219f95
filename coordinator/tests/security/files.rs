//! What is said of the files of certificates, keys and tokens.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use concord_proto::Credentials;
use concord_tests::until;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::program::{Concord, token};

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_and_a_key_that_is_no_secret_are_told_wherever_they_can_be() {
    let mut concord = Concord::new();
    let [pem, key, ca] = ["own.pem", "own.key", "ca.pem"].map(|name| concord.path(name));
    let write = |name: &Path, year: i32| {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let pair = KeyPair::generate().unwrap();
        std::fs::write(name, params.self_signed(&pair).unwrap().pem()).unwrap();
        pair.serialize_pem()
    };
    std::fs::write(&key, write(&pem, 2002)).unwrap();
    set_mode(&key, 0o644);
    write(&ca, 2900);
    concord.configure(&format!("[calls]\ntls_ca = {ca:?}\ntls_certificate = {pem:?}\ntls_key = {key:?}\n"));
    let expired = "in it has expired, at 2002-01-01T00:00:00Z";
    let readable = "every user of this machine may read the private key (mode 644)";

    let check = concord.command(&["config", "check"]).await;
    let said = String::from_utf8(check.stderr).unwrap();
    assert!(check.status.success() && said.contains(expired) && said.contains(readable), "{said}");
    let listen = format!("server.listen={}", concord.address.socket());
    let doctor = concord.command(&["doctor", "--set", &listen, "--json"]).await;
    let said = String::from_utf8(doctor.stdout).unwrap();
    assert!(said.contains(expired) && said.contains(readable), "{said}");

    concord.start(&Credentials::new()).await;
    let log = concord.process.log();
    assert!(log.contains("WARN") && log.contains(expired) && log.contains(readable), "{log}");
    let expires = async |file: &str| {
        let page = concord.metrics().await;
        let name = format!("concord_certificate_expires_timestamp_seconds{{file={file:?}}} ");
        page.lines().find_map(|line| line.strip_prefix(&name)).map(|value| value.parse::<i64>().unwrap())
    };
    let year = |year| date_time_ymd(year, 1, 1).unix_timestamp();
    assert_eq!(expires("calls.tls_certificate").await, Some(year(2002)));
    assert_eq!(expires("calls.tls_ca").await, Some(year(2900)));
    assert_eq!(expires("server.tls_certificate").await, None);

    // What cannot be used is not in use.
    let told = || concord.process.log().matches(expired).count();
    let before = told();
    std::fs::write(&ca, "nonsense").unwrap();
    until("it is told again", async || {
        Ok(concord.process.log().contains("a file cannot be used").then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(expires("calls.tls_certificate").await, Some(year(2002)));
    write(&ca, 2002);
    until("it is in use, and told of", async || {
        Ok((expires("calls.tls_ca").await == Some(year(2002)) && told() > before).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_no_tenant_is_refused_and_takes_nothing_else_with_it() {
    let mut concord = Concord::new();
    let (tokens, tenants) = (concord.path("tokens.toml"), concord.path("tenants.toml"));
    let ann = token(&tokens, "ann", &["--role", "operator"]).await;
    let ann = Credentials::new().token(&ann).unwrap();
    std::fs::write(&tenants, "[[tenant]]\nname = 'shop'\n").unwrap();
    concord.configure(&format!("[security]\ntokens = {tokens:?}\ntenants = {tenants:?}\n"));
    concord.start(&ann).await;
    let bank = token(&tokens, "bank", &["--role", "viewer", "--tenant", "bank"]).await;
    let bank = Credentials::new().token(&bank).unwrap();
    let why = "the token \"bank\": the tenant \"bank\" is not in the file of tenants (security.tenants)";
    // A log quotes what it is told.
    let logged = why.replace('"', "\\\"");
    until("it is told", async || {
        let log = concord.process.log();
        Ok((log.contains(why) || log.contains(&logged)).then_some(()))
    })
    .await
    .unwrap();
    concord.status(&ann).await.unwrap();
    let check = concord.command(&["config", "check"]).await;
    let said = String::from_utf8(check.stderr).unwrap();
    assert!(!check.status.success() && said.contains(why), "{said}");
    // A tenant that comes later lets its token in, though the file of tokens is what it was.
    std::fs::write(&tenants, "[[tenant]]\nname = 'shop'\n[[tenant]]\nname = 'bank'\n").unwrap();
    until("it is known", async || {
        Ok(concord.api(&bank).list(concord_proto::v1::ListRequest::default()).await.ok())
    })
    .await
    .unwrap();
    let tenants_log = async |text: &str| {
        let told = format!("the file of tenants has changed key=\"security.tenants\" {text}\n");
        until(&told, async || Ok(concord.process.log().contains(&told).then_some(()))).await.unwrap();
    };
    tenants_log("tenant=bank from= to=no limits").await;
    std::fs::write(&tenants, "[[tenant]]\nname = 'bank'\nbegins_per_second = 7\n[[tenant]]\nname = 'shop'\n")
        .unwrap();
    tenants_log("tenant=bank from=no limits to=begins_per_second = 7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_token_is_told_of() {
    let mut concord = Concord::new();
    std::fs::write(concord.path("tokens.toml"), "# none yet\n").unwrap();
    concord.configure("[security]\ntokens = 'tokens.toml'\n");
    let told = "\"tokens.toml\": there is no token in it, so that nobody gets in by one";
    let check = concord.command(&["config", "check"]).await;
    let said = String::from_utf8(check.stderr).unwrap();
    assert!(check.status.success(), "{said}");
    assert!(
        said.starts_with(&format!("warning: security.tokens = {told}\nhint: `concord token new")),
        "{said}"
    );
    let listen = format!("server.listen={}", concord.address.socket());
    let doctor = concord.command(&["doctor", "--set", &listen]).await;
    let said = String::from_utf8(doctor.stdout).unwrap();
    assert!(said.contains(&format!("WARN  security.tokens: {told}")), "{said}");
}
