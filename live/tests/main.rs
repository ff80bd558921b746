//! The page's backend, without a browser: one program for all tests.

mod backend;
mod events;
mod process;
mod safety;
