//! Who may do what in a playground that is not open: the accounts, the users and their lists, and
//! the files in which nats-server and the programs find them.

pub mod access;
pub mod configuration;
pub mod credentials;
mod files;
mod jwt;

pub use configuration::Stage;
pub use credentials::{Credentials, Taken};
pub use files::{Form, SERVER, Secured, environment, secret_file, start};
pub use jwt::Terms;
