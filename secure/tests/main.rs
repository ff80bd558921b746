//! Who may do what, proven with the programs themselves.

mod attacks;
mod credentials;
mod files;
mod lessons;
mod lists;
mod readme;
mod support;
