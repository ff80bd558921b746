//! Each button of each scene, pressed in a real browser, and what it does to the real processes.
//!
//! ```sh
//! cargo build --workspace --bins --examples
//! cargo test -p live --test browser # needs chromium and chromedriver
//! ```

#[path = "browser/driver.rs"]
mod driver;
#[path = "browser/page.rs"]
mod page;
mod process;
#[path = "browser/programs.rs"]
mod programs;
#[path = "browser/scenes.rs"]
mod scenes;
