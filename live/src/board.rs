//! All that is known, shared by the threads that learn it and those that show it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use crate::cast::PLANS;
use crate::scenes::Scene;

/// The scenes and the state of nats-server.
#[derive(Debug)]
pub struct Board {
    scenes: Vec<Mutex<Scene>>,
    server: Mutex<(bool, String)>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            scenes: PLANS.iter().map(|plan| Mutex::new(Scene::new(plan))).collect(),
            server: Mutex::new((true, "runs".into())),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// Does something with the scene of this name. Does nothing if there is none.
    pub fn with(&self, scene: &str, act: impl FnOnce(&mut Scene)) {
        if let Some(at) = PLANS.iter().position(|plan| plan.id == scene) {
            act(&mut lock(&self.scenes[at]));
        }
    }

    /// Does something with each scene.
    pub fn with_each(&self, mut act: impl FnMut(&mut Scene)) {
        for scene in &self.scenes {
            act(&mut lock(scene));
        }
    }

    /// Lets each scene know that some time has passed.
    pub fn tick(&self) {
        let now = Instant::now();
        self.with_each(|scene| {
            scene.desk.tick(now);
            scene.play.tick(&mut scene.desk, now);
        });
    }

    /// Notes the state of nats-server.
    pub fn server(&self, is_up: bool, state: &str) {
        let was_up = {
            let mut server = lock(&self.server);
            let was_up = server.0;
            *server = (is_up, state.to_owned());
            was_up
        };
        if was_up != is_up {
            self.with_each(|scene| {
                let Scene { desk, play } = scene;
                desk.say(&format!("nats-server {state}"));
                // What others' programs have lost is not known.
                if !desk.is_alone {
                    play.server(desk, is_up);
                }
            });
        }
    }

    /// Whether nats-server runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        lock(&self.server).0
    }

    /// Whether nats-server runs, and how it is.
    #[must_use]
    pub fn server_json(&self) -> Value {
        let server = lock(&self.server);
        json!({ "runs": server.0, "state": server.1 })
    }
}
