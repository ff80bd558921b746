//! All tests of this lesson.

mod bucket;
mod bytes;
mod faults;
mod gateway;
mod keys;
mod readme;
mod rights;
mod support;
