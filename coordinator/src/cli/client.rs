//! The connection to a coordinator, and what every client command has in common.

use std::error::Error as _;
use std::io::{IsTerminal as _, stdout};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use concord_coordinator::config::Config;
use concord_proto::status::reason;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::operator_client::OperatorClient;
use concord_proto::{Credentials, EndpointError, LikelyCause, root_cause, v1};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::failure::{Failure, no_connection};
use super::view::{Look, Output, StatusReport};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What tonic says when the deadline of a request has passed.
const TIMEOUT_EXPIRED: &str = "Timeout expired";
/// Largest answer read, in bytes: a page of 1,000 transactions may have many branches.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Arguments of every client command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection and output")]
pub(super) struct ClientArgs {
    /// Where the coordinator listens
    #[arg(long, env = "CONCORD_ADDRESS", default_value = "http://127.0.0.1:7600", value_name = "URL")]
    address: String,
    /// File of the bearer token to show. The variable CONCORD_TOKEN holds a token itself
    #[arg(long, env = "CONCORD_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file of authorities to trust besides the public ones
    #[arg(long, env = "CONCORD_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file of a certificate to show, where one is asked for
    #[arg(long, env = "CONCORD_CERTIFICATE", value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, env = "CONCORD_KEY", value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Show the token over http:// as well, to a host beyond this machine: where something below encrypts
    #[arg(long, env = "CONCORD_ALLOW_INSECURE")]
    allow_insecure: bool,
    /// Milliseconds to wait for an answer, at most a day
    #[arg(long, default_value_t = 30_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    timeout_ms: u64,
    /// Print JSON with stable field names and RFC 3339 times, instead of text
    #[arg(long)]
    json: bool,
}

impl ClientArgs {
    /// For a question that the user did not ask himself. It is asked with what the environment says, or else as the coordinator
    /// makes its own calls.
    pub(super) fn to(address: String, timeout: Duration, config: &Config) -> Self {
        let Config { calls, security, .. } = config;
        let path = |variable| std::env::var_os(variable).map(PathBuf::from);
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        ClientArgs {
            address,
            timeout_ms,
            token_file: path("CONCORD_TOKEN_FILE"),
            ca: path("CONCORD_CA").or_else(|| calls.tls_ca.clone()),
            certificate: path("CONCORD_CERTIFICATE").or_else(|| calls.tls_certificate.clone()),
            key: path("CONCORD_KEY").or_else(|| calls.tls_key.clone()),
            allow_insecure: security.allow_insecure,
            json: false,
        }
    }

    /// The token to show, and where it is from.
    fn token(&self) -> Result<Option<(String, String)>, Failure> {
        let given = || std::env::var("CONCORD_TOKEN").ok().filter(|token| !token.is_empty());
        match &self.token_file {
            Some(path) => Ok(Some((path.display().to_string(), read(path)?))),
            None => Ok(given().map(|token| ("CONCORD_TOKEN".to_owned(), token))),
        }
    }

    fn credentials(&self) -> Result<Credentials, Failure> {
        let mut credentials = Credentials::new();
        if self.allow_insecure {
            credentials = credentials.allow_insecure();
        }
        if let Some(ca) = &self.ca {
            credentials = credentials.trusting(read(ca)?);
        }
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            credentials = credentials.certificate(read(certificate)?, read(key)?);
        }
        match self.token()? {
            None => Ok(credentials),
            Some((from, token)) => {
                credentials.token(token.trim()).map_err(|error| Failure::usage(format!("{from}: {error}")))
            }
        }
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", path.display())))
}

/// Who gives an order.
#[derive(Debug, Clone, Args)]
pub(super) struct OperatorArgs {
    /// Who gives the order, for the record, beside the name in the token [default: $USER, which only has to be there
    /// without a token]
    #[arg(long, env = "CONCORD_OPERATOR", value_name = "NAME")]
    operator: Option<String>,
}

impl OperatorArgs {
    /// Empty: whoever the token names, by which this client shows who it is.
    pub(super) fn name(&self, client: &ClientArgs) -> Result<String, Failure> {
        let user = || std::env::var("USER").ok();
        match self.operator.clone().or_else(user).filter(|name| !name.is_empty()) {
            Some(name) => Ok(name),
            None if client.token()?.is_some() => Ok(String::new()),
            None => Err(Failure::usage("nobody to name in the record: there is neither a token nor $USER")
                .with_hint("say who you are: --operator NAME")),
        }
    }
}

/// By which calls leave, each with the token.
type Way = InterceptedService<Channel, Credentials>;

/// A connection, with how to present what comes from it.
#[derive(Debug)]
pub(super) struct Client {
    channel: Way,
    credentials: Credentials,
    address: String,
    timeout: Duration,
    pub(super) output: Output,
}

impl Client {
    /// Connects.
    pub(super) async fn connect(args: &ClientArgs) -> Result<Self, Failure> {
        let address = with_scheme(&args.address)?;
        let credentials = args.credentials()?;
        let wrong = |error| match error {
            EndpointError::PlainToken { host } => {
                let why = "whoever is on the way can read it";
                Failure::usage(format!("the token is not sent to {host} over http://: {why}"))
                    .with_hint("use an https:// address, or --allow-insecure where something below encrypts")
            }
            EndpointError::NoAuthority => {
                let ca = args.ca.as_deref().unwrap_or(Path::new("--ca")).display();
                Failure::usage(format!("{ca} has no certificate in it"))
                    .with_hint("--ca names a file with the certificates of authorities (PEM)")
            }
            EndpointError::OtherKey => {
                let [certificate, key] = [(&args.certificate, "--certificate"), (&args.key, "--key")]
                    .map(|(path, flag)| path.as_deref().unwrap_or(Path::new(flag)).display());
                Failure::usage(format!("{key} (--key) is not the key of {certificate} (--certificate)"))
            }
            error => Failure::usage(format!(
                "{address:?} is not an address such as http://127.0.0.1:7600, or the certificates are of no use: {error}"
            )),
        };
        let endpoint = credentials.endpoint(&address, None).map_err(wrong)?.connect_timeout(CONNECT_TIMEOUT);
        let timeout = Duration::from_millis(args.timeout_ms);
        // The handshake of TLS has no limit of its own.
        let connected = tokio::time::timeout(timeout, endpoint.connect()).await;
        let connected = connected.map_err(|_| Failure::unanswered(&address, timeout))?;
        let channel = connected.map_err(|error| {
            let message = format!("cannot connect to {address}: {}", root_cause(&error));
            let hint = likely(&credentials, &address, &error).unwrap_or_else(|| no_connection(&address));
            Failure::new(message).with_hint(hint)
        })?;
        let channel = InterceptedService::new(channel, credentials.clone());
        Ok(Client { channel, credentials, address, timeout, output: output(args.json) })
    }

    pub(super) fn coordinator(&self) -> CoordinatorClient<Way> {
        CoordinatorClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(super) fn operator(&self) -> OperatorClient<Way> {
        OperatorClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// A request with the deadline that the user gave.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    /// The next answer of a call that has no deadline as a whole.
    pub(super) async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(answer) => answer.map_err(|status| self.failure(&status)),
            Err(_) => Err(Failure::unanswered(&self.address, self.timeout)),
        }
    }

    /// What the coordinator says of itself.
    pub(super) async fn status(&self) -> Result<v1::GetStatusResponse, Failure> {
        let request = self.request(v1::GetStatusRequest {});
        let answer = self.operator().get_status(request).await.map_err(|status| self.failure(&status))?;
        Ok(answer.into_inner())
    }

    /// Of a question.
    pub(super) fn failure(&self, status: &Status) -> Failure {
        // The client's own deadline, or the coordinator's of the same length.
        let in_vain = match status.code() {
            Code::DeadlineExceeded => reason(status).is_none(),
            Code::Cancelled => status.message() == TIMEOUT_EXPIRED,
            _ => false,
        };
        if in_vain {
            return Failure::unanswered(&self.address, self.timeout);
        }
        let Some(error) = status.source() else { return Failure::status(status, &self.address) };
        // It does not come from a coordinator, but from the way to it.
        match likely(&self.credentials, &self.address, error) {
            Some(hint) => {
                let message = format!("no answer from {}: {}", self.address, root_cause(error));
                Failure::new(message).with_hint(hint)
            }
            None => Failure::status(status, &self.address),
        }
    }

    /// Of an order, which may have been carried out though nobody has said so.
    pub(super) fn order_failure(&self, status: &Status) -> Failure {
        match self.failure(status) {
            failure if failure.is_unanswered() || status.code() == Code::Cancelled => failure.with_hint(
                "the order may have been carried out, or be so yet: look with `concord tx get` before you repeat it, or \
                 allow more --timeout-ms",
            ),
            failure => failure,
        }
    }

    /// The transaction of an answer, which always has one.
    pub(super) fn expect(&self, transaction: Option<v1::Transaction>) -> Result<v1::Transaction, Failure> {
        transaction.ok_or_else(|| Failure::new(format!("{} answered without a transaction", self.address)))
    }
}

/// `concord status`
pub(super) async fn status(args: ClientArgs) -> Result<(), Failure> {
    let client = Client::connect(&args).await?;
    let status = client.status().await?;
    client.output.show(&StatusReport::from(status))?;
    Ok(())
}

/// `host:port` is meant as `http://host:port`.
fn with_scheme(address: &str) -> Result<String, Failure> {
    match address.split_once("://") {
        _ if address.contains('@') => {
            Err(Failure::usage("the address of a coordinator has no user and no password in it")
                .with_hint("a token is shown from CONCORD_TOKEN, or from --token-file"))
        }
        None => Ok(format!("http://{address}")),
        Some(("http" | "https", _)) => Ok(address.to_owned()),
        Some(_) => {
            Err(Failure::usage(format!("{address:?} is not an address such as http://127.0.0.1:7600")))
        }
    }
}

/// What is likely wrong on the way to the coordinator, and what to say instead.
fn likely(
    credentials: &Credentials,
    address: &str,
    error: &(dyn std::error::Error + 'static),
) -> Option<String> {
    let (cause, is_certain) = credentials.likely_cause(address, error)?;
    let remedy = match cause {
        LikelyCause::WantsCertificate | LikelyCause::RefusesCertificate => {
            ": --certificate and --key name one"
        }
        LikelyCause::UnknownAuthority => ": --ca names one that is",
        LikelyCause::NotNow => {
            "; look at the clock of this machine, and renew the coordinator's (server.tls_certificate), which is read again without \
             a restart"
        }
        _ => "",
    };
    Some(match is_certain {
        true => format!("{cause}{remedy}"),
        false => {
            format!(
                "maybe it is about to stop, or has as many connections as it may have, or {cause}{remedy}; an order may have been carried out all the same"
            )
        }
    })
}

/// How a command presents what it has found.
pub(super) fn output(json: bool) -> Output {
    Output { json, look: look() }
}

/// Ages count from now; colours are for terminals, unless NO_COLOR says otherwise.
fn look() -> Look {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Look {
        colour: stdout().is_terminal() && colour_wanted(),
        now_ms: i64::try_from(unix.as_millis()).unwrap_or(i64::MAX),
        width: stdout().is_terminal().then(width).flatten(),
    }
}

/// Characters of the terminal's line, where it says how many it has.
fn width() -> Option<usize> {
    let columns = rustix::termios::tcgetwinsize(stdout()).ok()?.ws_col;
    (columns > 0).then_some(columns.into())
}

/// What the environment says of colours (no-color.org).
pub(super) fn colour_wanted() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && !is_dumb()
}

/// Whether the terminal takes nothing but text.
pub(super) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|value| value == "dumb")
}

impl Client {
    /// Ages of a long stream count from the moment of each line.
    pub(super) fn output_now(&self) -> Output {
        output(self.output.json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(with_scheme("127.0.0.1:7600").unwrap(), "http://127.0.0.1:7600");
        assert_eq!(with_scheme("http://a:1").unwrap(), "http://a:1");
        assert_eq!(with_scheme("https://a:1").unwrap(), "https://a:1");
        assert!(with_scheme("ftp://a:1").is_err());
        for wrong in ["http://ann:s3cret@a:1", "ann:s3cret@a:1", "ftp://ann:s3cret@a:1"] {
            assert!(!format!("{:?}", with_scheme(wrong).unwrap_err()).contains("s3cret"), "{wrong}");
        }
    }
}
