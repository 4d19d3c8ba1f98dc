//! REST: the router, which is the OpenAPI document, and one file per resource.
//!
//! A request passes [`Front`], which authenticates it, and one handler. A handler takes the
//! request apart (`extract`), names the right that it needs to get at a VM or a lease (`caller`),
//! makes one call into [`crate::vm`], and gives back what came out or a problem (`error`).

pub mod access;
mod accounts;
mod admission;
mod agent;
mod bodies;
mod call_timeout;
mod caller;
mod commands;
mod conditions;
mod context;
mod document;
mod error;
mod events;
mod extract;
mod failures;
mod file_handles;
mod files;
mod freezes;
mod front;
mod fsfreeze;
mod groups;
mod idempotency;
mod lease;
mod metrics;
mod mirror;
mod origin;
mod pace;
mod page;
mod page_of_freezes;
mod page_of_vms;
mod patience;
mod power;
mod preview;
mod processes;
mod reads;
mod service;
mod settings;
mod strangers;
mod strict;
mod tickets;
mod time;
mod told;
mod trail;
mod vms;
mod wait;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::http::Method;
use axum::response::IntoResponse;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::audit::Audit;
use crate::config::{CorsConfig, Limits};
use crate::metrics::RequestFigures;
use crate::replies::Replies;
use crate::rights::Authority;
use crate::share::Shared;
use crate::trace::Exporter;
use crate::vm::{Leases, Registry};

pub use document::openapi_json;
pub use error::Code;
pub use failures::Failures;
pub use front::{Front, Refusal};
pub(crate) use front::{MAX_HEAD_BYTES, MAX_HEADERS};

/// What handlers work on.
pub struct State {
    /// The VMs.
    pub registry: Registry,
    /// Their freeze leases.
    pub leases: Leases,
    /// Who may do what.
    pub authority: Authority,
    /// Whose pages in browsers may talk to it.
    pub cors: CorsConfig,
    /// Who did what goes on record here.
    pub audit: Audit,
    /// The first answers to requests that may be sent again.
    pub replies: Replies,
    /// Cancelled once the gateway is stopping.
    pub stopping: CancellationToken,
    /// Where traces go, if anywhere.
    pub exporter: Option<Exporter>,
}

/// A cheap clone of the one [`State`].
#[derive(Clone)]
pub(crate) struct App {
    state: Arc<State>,
    requests: Arc<RequestFigures>,
    scrapes: metrics::Scrapes,
    tickets: tickets::Tickets,
    bodies: bodies::Bodies,
    followers: Shared,
    origins: origin::Origins,
}

impl App {
    /// What has been asked for.
    fn requests(&self) -> &RequestFigures {
        &self.requests
    }

    fn scrapes(&self) -> &metrics::Scrapes {
        &self.scrapes
    }

    fn tickets(&self) -> &tickets::Tickets {
        &self.tickets
    }

    fn bodies(&self) -> &bodies::Bodies {
        &self.bodies
    }

    /// Places among those who follow the events.
    fn followers(&self) -> &Shared {
        &self.followers
    }

    fn origins(&self) -> &origin::Origins {
        &self.origins
    }
}

impl Deref for App {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl State {
    /// Bounds on what a caller may ask for, as they are now.
    fn limits(&self) -> Arc<Limits> {
        self.registry.limits()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

/// All operations with their documentation.
fn operations() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(document::frame())
        .routes(routes!(vms::list_vms))
        .routes(routes!(vms::show_vm))
        .routes(routes!(wait::wait_for_vm))
        .routes(routes!(agent::ping_agent))
        .routes(routes!(agent::sync_agent))
        .merge(reads::routes())
        .routes(routes!(
            fsfreeze::show_fsfreeze,
            fsfreeze::freeze_vm,
            fsfreeze::renew_fsfreeze,
            fsfreeze::thaw_fsfreeze
        ))
        .routes(routes!(freezes::list_freezes, groups::freeze_vms))
        .routes(routes!(freezes::show_freeze, freezes::renew_freeze, freezes::thaw_freeze))
        .routes(routes!(settings::set_time))
        .routes(routes!(settings::set_vcpus))
        .routes(routes!(settings::set_memory_blocks))
        .routes(routes!(settings::trim_filesystems))
        .routes(routes!(power::shutdown_vm))
        .routes(routes!(power::suspend_vm))
        .routes(routes!(accounts::set_password))
        .routes(routes!(
            accounts::list_ssh_keys,
            accounts::replace_ssh_keys,
            accounts::change_ssh_keys
        ))
        .routes(routes!(commands::send_command))
        .routes(routes!(file_handles::open_file))
        .routes(routes!(file_handles::close_file))
        .routes(routes!(file_handles::read_file))
        .routes(routes!(file_handles::write_file))
        .routes(routes!(file_handles::seek_file))
        .routes(routes!(file_handles::flush_file))
        .routes(routes!(processes::list_processes, processes::start_process))
        .routes(routes!(processes::show_process, processes::delete_process))
        .routes(routes!(processes::read_output))
        .routes(routes!(processes::write_stdin))
        .routes(routes!(processes::signal_process))
        .routes(routes!(processes::attach_process))
        .routes(routes!(tickets::make_ticket))
        .routes(routes!(
            files::content::read_content,
            files::content::head_content,
            files::content::write_content,
            files::tree::remove_content
        ))
        .routes(routes!(
            files::tree::show_file,
            files::tree::make_directory,
            files::tree::rename_file,
            files::tree::remove_file
        ))
        .routes(routes!(events::follow_events))
        .routes(routes!(service::livez))
        .routes(routes!(service::readyz))
        .routes(routes!(service::version))
        .routes(routes!(metrics::read_metrics))
        .routes(routes!(document::openapi_document))
        .routes(routes!(page::api_page))
}

/// The whole API on this state.
pub fn front(state: State) -> Front {
    let (router, api) = operations().split_for_parts();
    let router: Router<App> = page::assets(router)
        .method_not_allowed_fallback(|method: Method| async move {
            error::Problem::new(
                Code::MethodNotAllowed,
                format!("{method} is not possible on this path; the Allow header lists what is."),
            )
            .into_response()
        })
        .fallback(|uri: axum::http::Uri| async move {
            error::Problem::new(
                Code::RouteNotFound,
                format!(
                    "The gateway has nothing at \"{}\". /openapi.json lists every path, and \
                     /docs shows them.",
                    error::printable(uri.path())
                ),
            )
            .into_response()
        });
    let paths = api.paths.paths.keys().map(String::as_str).chain(["/docs/", "/docs/{*file}"]);
    let requests = Arc::new(RequestFigures::new(paths));
    let scrapes = metrics::Scrapes::default();
    let (audit, exporter) = (state.audit.clone(), state.exporter.clone());
    let tickets = tickets::Tickets::new(state.authority.clone());
    let origins = origin::Origins::new(state.cors.clone());
    let pace = pace::Pace::new(state.registry.clone());
    let app = App {
        state: Arc::new(state),
        requests: requests.clone(),
        scrapes,
        tickets: tickets.clone(),
        bodies: bodies::Bodies::default(),
        followers: Shared::default(),
        origins: origins.clone(),
    };
    let keyed = idempotency::Keyed::new(app.clone(), document::keyed_paths(&api));
    let front = Front::new(router.with_state(app), requests).keyed(keyed);
    front.with_tickets(tickets).audited(audit).traced(exporter).let_in(origins).paced(pace)
}
