//! Waiting by condition.

use anyhow::Result;
use concord_sandbox as sandbox;

/// Waits until `look` answers with something; `what` says in an error what never came. Gives up long after
/// anything here could take: on what never comes, and on nothing else.
///
/// # Errors
/// When it never comes; at once when `look` fails.
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    sandbox::until(what, look).await
}
