//! All tests of this lesson.

mod majority;
mod soak;
mod support;
mod upgrade;
