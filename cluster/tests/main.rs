//! All tests of this lesson.

mod addresses;
mod copies;
mod majority;
mod readme;
mod soak;
mod support;
mod upgrade;
