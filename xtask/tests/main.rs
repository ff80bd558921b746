//! The tests of the tasks, and of what holds for the whole workspace.

mod common;
mod documents;
mod flaws;
mod learn;
mod metadata;
mod prove;
mod starters;
mod tasks;
mod terminal;
mod up;
mod workspace;
