//! The page's backend, without a browser: one program for all tests.

mod backend;
mod http;
mod safety;
