//! Databases that the coordinator may reach itself.

use std::sync::Arc;

use concord_proto::v1;
use concord_protocol::ClusterId;

use crate::config::Config;
use crate::engine::Engine;
use crate::serve::ServeError;

/// The configured resources.
pub struct Resources {}

impl Resources {
    pub(crate) fn new(_config: &Config, _cluster: ClusterId) -> Result<Self, ServeError> {
        Ok(Resources {})
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }

    pub(crate) async fn in_doubt(&self, _engine: &Engine, _name: &str) -> v1::ListInDoubtResponse {
        v1::ListInDoubtResponse::default()
    }

    pub(crate) fn list(&self) -> Vec<v1::Resource> {
        Vec::new()
    }

    pub(crate) async fn sweep_forever(self: Arc<Self>, _engine: Arc<Engine>) {}
}
