//! The page over HTTP: for this machine's browser only.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::Stream;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::Lesson;
use crate::board::Board;
use crate::cast::{Action, Deed, Life, PLANS, Plan, ROLES};
use crate::observe::Observer;
use crate::stage::Stage;

/// How often the page is told what has changed.
const TELL: Duration = Duration::from_millis(100);
/// The header that holds the page's token.
const TOKEN: HeaderName = HeaderName::from_static("x-token");

const PAGE: &str = include_str!("page.html");

/// What the handlers need.
#[derive(Debug)]
pub struct App {
    /// All that is known.
    pub board: Arc<Board>,
    /// The programs; none if a server of one's own is looked at.
    pub stage: Option<Arc<Stage>>,
    /// The connection of the page.
    pub observer: Arc<Observer>,
    /// The port that it listens on.
    pub port: u16,
    /// A secret of this run: only the page knows it.
    pub token: String,
    /// What is looked at.
    pub server: String,
    /// The lesson of each experiment, by the name of its folder.
    pub lessons: HashMap<String, Lesson>,
}

impl App {
    /// The names under which a browser on this machine may know the page.
    fn hosts(&self) -> [String; 2] {
        ["127.0.0.1", "localhost"].map(|host| format!("{host}:{}", self.port))
    }
}

/// The routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(page))
        // A browser asks for it beside a page that is no HTML: the lesson.
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT))
        .route("/token", get(token))
        .route("/events/{scene}", get(events))
        .route("/lesson/{scene}", get(lesson))
        .route("/do/{scene}/{target}/{button}", post(press))
        .layer(from_fn_with_state(Arc::clone(&app), guard))
        .with_state(app)
}

/// Refuses what a page from elsewhere could send: requests under another host name, which a name
/// server can lead to this machine, and changes from another origin or without the token, which only
/// this page can read.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match permitted(&app, request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(why) => (StatusCode::FORBIDDEN, format!("{why}\n")).into_response(),
    }
}

fn permitted(app: &App, method: &Method, headers: &HeaderMap) -> Result<()> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let hosts = app.hosts();
    let host = text(HOST).unwrap_or_default();
    ensure!(hosts.iter().any(|own| own == host), "not the host of this page");
    let is_own = |origin: &str| hosts.iter().any(|own| origin == format!("http://{own}"));
    ensure!(text(ORIGIN).is_none_or(is_own), "not the origin of this page");
    if method != Method::GET && method != Method::HEAD {
        ensure!(text(TOKEN) == Some(app.token.as_str()), "not the token of this page");
    }
    Ok(())
}

async fn page(State(app): State<Arc<App>>) -> Response {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let policy = format!(
        "default-src 'none'; connect-src 'self'; img-src data:; script-src 'nonce-{nonce}'; \
         style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let html = PAGE.replace("{{nonce}}", &nonce).replace("{{token}}", &app.token);
    let mut response = html.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    response
}

/// The token, for a page that was there before this process.
async fn token(State(app): State<Arc<App>>) -> Response {
    ([("cache-control", "no-store")], Json(json!({ "token": app.token }))).into_response()
}

/// A lesson as it stands in the repository: Markdown.
async fn lesson(State(app): State<Arc<App>>, Path(scene): Path<String>) -> Response {
    match app.lessons.get(&scene) {
        Some(lesson) => {
            ([(CONTENT_TYPE, "text/plain; charset=utf-8")], lesson.text.clone()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// What a page knows of a scene already.
struct Told {
    app: Arc<App>,
    plan: &'static Plan,
    ticks: Interval,
    before: BTreeMap<String, Value>,
}

/// The sections of a scene: all of them, and then, ten times a second, those that have changed.
async fn events(
    State(app): State<Arc<App>>,
    Path(scene): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, StatusCode> {
    let plan = PLANS.iter().find(|plan| plan.id == scene).ok_or(StatusCode::NOT_FOUND)?;
    let mut ticks = interval(TELL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let told = Told { app, plan, ticks, before: BTreeMap::new() };
    let stream = futures::stream::unfold(told, async |mut told| {
        loop {
            told.ticks.tick().await;
            let changed = told.changed();
            if !changed.is_empty() {
                let event = Event::default().event("sections").json_data(&changed);
                return Some((Ok(event.unwrap_or_default()), told));
            }
        }
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

impl Told {
    fn changed(&mut self) -> BTreeMap<String, Value> {
        let mut now = BTreeMap::new();
        self.app.board.with(self.plan.id, |scene| now = scene.sections());
        now.insert("server".into(), self.app.board.server_json());
        now.insert("plan".into(), plan(&self.app, self.plan));
        let is_new = |(name, value): &(&String, &Value)| self.before.get(*name) != Some(value);
        let changed = now.iter().filter(is_new);
        let changed = changed.map(|(name, value)| (name.clone(), value.clone())).collect();
        self.before = now;
        changed
    }
}

/// What does not change: the programs, the buttons.
fn plan(app: &App, plan: &Plan) -> Value {
    let has_programs = app.stage.is_some();
    let action = |action: &Action| {
        let toggles = matches!(action.deed, Deed::Strangers | Deed::Load | Deed::Storage);
        // The tool whose first version cannot do it.
        let service_of = match action.deed {
            Deed::Tool { id, first: [], .. } => id,
            _ => "",
        };
        json!({
            "id": action.id, "label": action.label, "title": action.title, "toggles": toggles,
            "more": matches!(action.deed, Deed::More), "service_of": service_of,
        })
    };
    let actions: Vec<_> = plan.actions.iter().filter(|_| has_programs).map(action).collect();
    let roles = ROLES.iter().filter(|role| role.scene == plan.id && has_programs);
    let roles: Vec<_> = roles
        .map(|role| {
            json!({
                "id": role.id, "left": role.left, "versions": role.first.is_some(),
                "tool": role.life == Life::Tool, "delay": role.delay,
                "spare": role.life == Life::Spare, "again": matches!(role.life, Life::Again(_)),
                "service": role.service.program,
                "first": role.first.as_ref().map(|first| first.program),
            })
        })
        .collect();
    let lesson = app.lessons.get(plan.id);
    json!({
        "title": lesson.map(|lesson| &lesson.title),
        "question": lesson.map(|lesson| &lesson.question),
        "publishes": plan.id == "hello" || plan.actions.iter().any(|action| {
            action.id == "bad" && plan.id != "jobs"
        }),
        "id": plan.id, "legend": plan.legend, "actions": actions, "roles": roles,
        "hint": if has_programs { plan.hint } else { "" },
        "own": has_programs, "server": app.server,
    })
}

async fn press(
    State(app): State<Arc<App>>,
    Path((scene, target, button)): Path<(String, String, String)>,
) -> Response {
    match act(&app, &scene, &target, &button).await {
        Ok(()) => Json(json!({ "done": true })).into_response(),
        Err(error) => {
            let body = json!({ "done": false, "error": format!("{error:#}") });
            (StatusCode::CONFLICT, Json(body)).into_response()
        }
    }
}

async fn act(app: &Arc<App>, scene: &str, target: &str, button: &str) -> Result<()> {
    let plan = PLANS.iter().find(|plan| plan.id == scene);
    let (Some(plan), Some(stage)) = (plan, app.stage.clone()) else {
        bail!("nothing was started here, so there is nothing to press");
    };
    let (target, button) = (target.to_owned(), button.to_owned());
    let (observer, board) = (Arc::clone(&app.observer), Arc::clone(&app.board));
    let runtime = Handle::current();
    if target != "scene" {
        return blocking(move || match target.as_str() {
            "server" => stage.press_server(&button),
            program if program.starts_with("job-worker") && button == "version" => {
                stage.toggle_job_workers(|| runtime.block_on(observer.delete_job_consumers()))
            }
            program => stage.press(program, &button),
        })
        .await;
    }
    let action = plan.actions.iter().find(|action| action.id == button);
    let action = action.context("there is no such button")?;
    let set = |is_on| app.board.with(plan.id, |scene| scene.desk.set(action.id, is_on));
    match action.deed {
        Deed::Strangers => set(observer.toggle_strangers(&board)),
        Deed::Bad(subject) => observer.publish_bad(plan.id, subject, &board).await?,
        Deed::More => blocking(move || stage.more(plan.id)).await?,
        Deed::Load => set(blocking(move || stage.toggle_load()).await?),
        Deed::Rolling => blocking(move || stage.rolling_restart()).await?,
        Deed::Storage => {
            let delete = move || runtime.block_on(observer.delete_orders(&board));
            set(blocking(move || stage.toggle_storage(delete)).await?);
        }
        Deed::Tool { id, service, first } => {
            blocking(move || stage.tool(id, service, first)).await?;
        }
    }
    Ok(())
}

/// Runs what waits for processes on a thread of its own.
async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(act).await?
}
