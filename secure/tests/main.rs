//! Who may do what, proven with the programs themselves.

mod lessons;
mod lists;
mod support;
