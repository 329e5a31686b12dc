//! Where requests go: a checked configuration made ready, and what is known of its providers.

pub(crate) mod affinity;
pub(crate) mod convert;
pub(crate) mod route;
mod shared;
pub(crate) mod table;
mod upstream;
