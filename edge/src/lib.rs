//! A plant with a bad line: a hub, a leaf node server, what they store, and the line between them.

pub mod device;
pub mod edge;
pub mod streams;

pub use edge::{Config, Edge};
