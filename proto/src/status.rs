//! Errors with a stable reason: `google.rpc.ErrorInfo` in the details of every status.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The domain of every reason that Concord gives.
pub const DOMAIN: &str = "concord";

/// A status with `reason` (UPPER_SNAKE_CASE, stable between versions) in its ErrorInfo.
pub fn with_reason(code: Code, reason: &str, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

/// The stable reason of a status, when Concord gave one.
pub fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info.reason)
}
