//! What all tasks of the operator share.

use std::sync::Arc;

use crate::api::Writer;
use crate::cloud::Cloud;
use crate::config::Config;
use crate::events::Events;
use crate::inventory::Inventory;
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::wakers::Wakers;

/// Handles; each guards itself.
#[derive(Debug)]
pub struct Shared {
    pub config: Config,
    pub leadership: Arc<Leadership>,
    pub cloud: Arc<Cloud>,
    pub inventory: Arc<Inventory>,
    pub objects: Arc<Objects>,
    pub writer: Writer,
    pub events: Events,
    pub metrics: Arc<Metrics>,
    pub wakers: Arc<Wakers>,
}
