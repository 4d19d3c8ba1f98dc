//! `/docs`: the API page, Swagger UI from this binary. It needs no network, and its policy header
//! keeps a browser from using any.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa_swagger_ui::Config;

use super::App;
use super::error::{Code, Problem};
use super::extract::NoQuery;

/// Only this server; styles and icons also from within the page, as Swagger UI needs them.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    // Relative, so that it also works behind a proxy that serves the gateway below a path.
    let config = Config::from("../openapi.json");
    Arc::new(config.validator_url("none").try_it_out_enabled(true).display_request_duration(true))
});

/// Open the API page
///
/// Leads to `/docs/`: this document for a browser, with a form for every operation.
#[utoipa::path(
    get,
    path = "/docs",
    tag = "gateway",
    responses((
        status = 308,
        description = "To the page.",
        headers(("location" = String, description = "`docs/`"))
    )),
    security(())
)]
pub(super) async fn api_page(_: NoQuery) -> Response {
    (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, "docs/")]).into_response()
}

/// The page's files: no operations of the API, so not in its document.
pub(super) fn assets(router: Router<App>) -> Router<App> {
    router
        .route("/docs/", get(|| async { asset("index.html") }))
        .route("/docs/{*file}", get(|Path(file): Path<String>| async move { asset(&file) }))
}

fn asset(file: &str) -> Response {
    match utoipa_swagger_ui::serve(file, CONFIG.clone()) {
        Ok(Some(asset)) => {
            let mut response = Response::new(Body::from(asset.bytes.into_owned()));
            let headers = response.headers_mut();
            if let Ok(kind) = HeaderValue::try_from(asset.content_type) {
                headers.insert(header::CONTENT_TYPE, kind);
            }
            headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
            response
        }
        Ok(None) => {
            Problem::new(Code::RouteNotFound, "The API page has no such file.").into_response()
        }
        Err(error) => {
            tracing::error!(%error, "the API page's file {file:?} cannot be made");
            Problem::new(Code::InternalError, "A file of the API page cannot be made.")
                .into_response()
        }
    }
}
