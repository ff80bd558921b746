//! Who may do what, proven with the programs themselves.

mod attacks;
mod credentials;
mod device;
mod files;
mod lessons;
mod limits;
mod lists;
mod readme;
mod support;
