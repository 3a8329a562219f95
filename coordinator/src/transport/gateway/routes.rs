//! Which method of the gRPC API is where.

use axum::http::Method;

/// A method of the gRPC API under a path. Names in braces are fields of its request; so are the parameters of a query, and
/// the members of a body.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) service: &'static str,
    pub(super) rpc: &'static str,
}

const fn get(path: &'static str, service: &'static str, rpc: &'static str) -> Route {
    Route { method: Method::GET, path, service, rpc }
}

const fn post(path: &'static str, service: &'static str, rpc: &'static str) -> Route {
    Route { method: Method::POST, path, service, rpc }
}

/// All of them. Not here is what takes a stream from its caller: HTTP has no such thing.
pub(super) static ROUTES: &[Route] = &[
    post("/v1/execute", "Coordinator", "Execute"),
    post("/v1/transactions", "Coordinator", "Begin"),
    get("/v1/transactions", "Coordinator", "List"),
    get("/v1/transactions/{gtid}", "Coordinator", "Get"),
    get("/v1/transactions/{gtid}/watch", "Coordinator", "Watch"),
    post("/v1/transactions/{gtid}/branches", "Coordinator", "RegisterBranch"),
    post("/v1/transactions/{gtid}/branches/{branch_id}/vote", "Coordinator", "ReportVote"),
    post("/v1/transactions/{gtid}/commit", "Coordinator", "Commit"),
    post("/v1/transactions/{gtid}/rollback", "Coordinator", "Rollback"),
    post("/v1/inquire", "Coordinator", "Inquire"),
    post("/v1/transactions/{gtid}/retry", "Operator", "Retry"),
    post("/v1/transactions/{gtid}/park", "Operator", "Park"),
    post("/v1/transactions/{gtid}/resolve", "Operator", "Resolve"),
    get("/v1/in-doubt", "Operator", "ListInDoubt"),
    get("/v1/participants", "Operator", "ListParticipants"),
    get("/v1/resources", "Operator", "ListResources"),
    get("/v1/status", "Operator", "GetStatus"),
    post("/v1/drain", "Operator", "Drain"),
];
