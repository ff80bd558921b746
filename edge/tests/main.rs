//! All tests of this lesson.
