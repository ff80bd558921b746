//! All tests of this lesson.

mod bucket;
mod bytes;
mod faults;
mod keys;
mod rights;
mod support;
