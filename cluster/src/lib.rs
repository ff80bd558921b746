//! What three servers keep while they fail: clients, faults from a seed, and a comparison.

pub mod faults;
pub mod history;
pub mod soak;
