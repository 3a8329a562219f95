//! `concord resource`: databases that the coordinator reaches itself.

use clap::Subcommand;
use concord_proto::v1;

use super::client::{Client, ClientArgs};
use super::failure::Failure;
use super::view::{InDoubtListing, ResourceListing, counted};

#[derive(Debug, Subcommand)]
pub(super) enum ResourceCommand {
    /// List the configured resources and how they are
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List the branches that were found prepared on the resources, those of others included
    #[command(after_help = "\
A branch in doubt has voted and waits for the decision. The coordinator ends its own by itself; those of others it \
never touches. Resources that could not be asked are named below the table (`unreachable` in JSON), and the exit \
code is 1 then.

Examples:
  concord resource in-doubt
  concord resource in-doubt --resource bank-a --json")]
    InDoubt {
        /// Only this resource
        #[arg(long, value_name = "NAME")]
        resource: Option<String>,
        #[command(flatten)]
        client: ClientArgs,
    },
}

pub(super) async fn run(command: ResourceCommand) -> Result<(), Failure> {
    match command {
        ResourceCommand::List { client } => {
            let client = Client::connect(&client).await?;
            let request = client.request(v1::ListResourcesRequest {});
            let answer =
                client.operator().list_resources(request).await.map_err(|status| client.failure(&status))?;
            client.output.show(&ResourceListing::from(answer.into_inner()))?;
        }
        ResourceCommand::InDoubt { resource, client } => {
            let client = Client::connect(&client).await?;
            let request = client.request(v1::ListInDoubtRequest { resource: resource.unwrap_or_default() });
            let answer =
                client.operator().list_in_doubt(request).await.map_err(|status| client.failure(&status))?;
            let answer = answer.into_inner();
            let unreachable = answer.unreachable.len();
            client.output.show(&InDoubtListing::from(answer))?;
            if unreachable > 0 {
                // A script must not take an incomplete list for a clean one.
                return Err(Failure::new(format!(
                    "{} could not be asked",
                    counted(unreachable as u64, "resource")
                )));
            }
        }
    }
    Ok(())
}
