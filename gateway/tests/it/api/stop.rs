//! A stop: requests in hand are answered, nothing new is taken, the socket file goes.

use axum::body::Body;
use qga_gateway::api::access::Access;
use qga_gateway::api::{self, State};
use qga_gateway::rights::{Authority, Identity, Rules};
use qga_gateway::vm::LinkState;
use tokio_util::sync::CancellationToken;

use super::agent::{Agent, Quirk};
use super::gateway::{BOUND, Gateway};

#[tokio::test]
async fn requests_in_hand_are_answered_and_the_socket_goes() {
    let agent = Agent::default().with("guest-file-flush", Quirk::Never);
    let gateway = Gateway::configured(agent, "[timeouts]\nfile_seconds = 0.5\n").await;
    gateway.wait_for(LinkState::Ready).await;
    let slow = tokio::spawn(gateway.ask("POST", "/vms/vm/file-handles/1/flush").send());
    let asked = async {
        while gateway.agent.times("guest-file-flush") == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, asked).await.expect("asked");
    gateway.stopping.cancel();
    gateway.tracker.close();
    slow.await.unwrap().problem(504, "agent_timeout");
    tokio::time::timeout(BOUND, gateway.tracker.wait()).await.expect("all connections end");
    assert!(!gateway.socket_exists());
}

#[tokio::test]
async fn a_stop_thaws_what_is_frozen() {
    let gateway = Gateway::start().await;
    gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
    let report = gateway.leases.shutdown(BOUND).await;
    assert_eq!((report.thawed, report.left.len()), (1, 0));
    assert!(!gateway.agent.is_frozen());
    gateway.ask("POST", "/vms/vm/fsfreeze").send().await.problem(503, "shutting_down");
}

#[tokio::test]
async fn a_stopping_gateway_says_that_it_is_not_ready() {
    let gateway = Gateway::start().await;
    gateway.ask("GET", "/readyz").send().await.expect(200);
    let stopping = CancellationToken::new();
    stopping.cancel();
    let authority = Authority::new(Rules::default());
    let front = api::front(State {
        registry: gateway.registry.clone(),
        leases: gateway.leases.clone(),
        authority: authority.clone(),
        cors: Default::default(),
        audit: qga_gateway::audit::Audit::default(),
        replies: qga_gateway::replies::Replies::new(&gateway.registry),
        stopping,
        exporter: None,
    });
    let request = hyper::Request::get("/readyz").header("host", "a").body(Body::empty()).unwrap();
    let answer = front.handle(&Access::Peer(Identity::unix(0, 0), authority), request).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
}
