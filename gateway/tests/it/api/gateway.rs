//! The system under test: the real front on real listeners, with a VM called `vm`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use qga_gateway::api::{self, State};
use qga_gateway::audit::Audit;
use qga_gateway::config::Config;
use qga_gateway::replies::Replies;
use qga_gateway::rights::{Authority, Rules};
use qga_gateway::server::{Tcp, Tls, Unix, load_token, serve};
use qga_gateway::store::Store;
use qga_gateway::trace::Exporter;
use qga_gateway::vm::{Leases, LinkState, Registry, VmHandle, refresh_guests, watch_external};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agent::Agent;
use super::client::{Ask, Target};

/// How long anything may take that a test waits for.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) agent: Agent,
    pub(crate) registry: Registry,
    pub(crate) leases: Leases,
    pub(crate) store: Store,
    pub(crate) authority: Authority,
    pub(crate) audit: Audit,
    pub(crate) tls: Option<Tls>,
    pub(crate) stopping: CancellationToken,
    pub(crate) tracker: TaskTracker,
    pub(crate) unix: Target,
    pub(crate) tcp: Target,
    pub(crate) token: String,
    dir: TempDir,
}

impl Gateway {
    /// With a well-behaved agent.
    pub(crate) async fn start() -> Self {
        Self::with(Agent::default()).await
    }

    /// With this agent, once the link to it is ready.
    pub(crate) async fn with(agent: Agent) -> Self {
        let gateway = Self::configured(agent, "").await;
        gateway.wait_for(LinkState::Ready).await;
        gateway
    }

    /// With more in the config file; `absent` is a second VM without a socket.
    pub(crate) async fn configured(agent: Agent, more: &str) -> Self {
        let socket = agent.clone();
        Self::over(move |path| socket.listen(path), agent, more).await
    }

    /// With whatever this puts behind the VM's socket, in place of the usual agent.
    pub(crate) async fn before(guest: impl FnOnce(&Path), more: &str) -> Self {
        Self::over(guest, Agent::default(), more).await
    }

    async fn over(guest: impl FnOnce(&Path), agent: Agent, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| -> PathBuf { dir.path().join(name) };
        guest(&path("vm.sock"));
        let config = format!(
            "{more}\n[listen]\nunix = {:?}\ntcp = \"127.0.0.1:0\"\ntoken_file = {:?}\n\
             [[vm]]\nid = \"vm\"\nsocket = {:?}\nlabels = {{ tier = \"test\" }}\n\
             [[vm]]\nid = \"absent\"\nsocket = {:?}\n",
            path("api.sock"),
            path("token"),
            path("vm.sock"),
            path("absent.sock"),
        );
        let config = Config::parse(&config, "test.toml".as_ref()).unwrap();
        let rules = Rules::new(&config.grants, &config.tokens);
        let token = load_token(&config.listen.token_file).unwrap();
        let authority = Authority::new(rules).with_token(&token);
        let unix = Unix::bind(&config.listen.unix, &authority).unwrap();
        let address = config.listen.tcp.unwrap();
        let tls = config.listen.tls.as_ref().map(|files| Tls::load(files).unwrap());
        let tcp = Tcp::bind(address, &authority, &[], tls.clone()).await.unwrap();
        let at = tcp.address().unwrap();
        let audit = Audit::start(&config.audit, "a key of the tests").unwrap();
        let registry = Registry::start(&config);
        let store = Store::in_memory();
        let leases = Leases::load(&registry, store.clone()).unwrap();
        tokio::spawn(watch_external(registry.clone(), leases.clone()));
        tokio::spawn(refresh_guests(registry.clone(), leases.clone()));
        tokio::spawn(audit.clone().follow(registry.events().clone()));
        let (stopping, tracker) = (CancellationToken::new(), TaskTracker::new());
        let front = api::front(State {
            registry: registry.clone(),
            leases: leases.clone(),
            authority: authority.clone(),
            cors: config.cors.clone(),
            audit: audit.clone(),
            replies: Replies::load(&registry, store.clone()).unwrap(),
            stopping: stopping.clone(),
            exporter: config.telemetry.otlp_endpoint.clone().map(Exporter::start),
        });
        tracker.spawn(serve(unix, front.clone(), tracker.clone(), stopping.clone()));
        tracker.spawn(serve(tcp, front, tracker.clone(), stopping.clone()));
        Self {
            agent,
            registry,
            leases,
            store,
            authority,
            audit,
            tls,
            stopping,
            tracker,
            unix: Target::Unix(path("api.sock")),
            tcp: Target::Tcp(at),
            token,
            dir,
        }
    }

    pub(crate) fn socket_exists(&self) -> bool {
        self.dir.path().join("api.sock").exists()
    }

    pub(crate) fn vm(&self) -> VmHandle {
        self.registry.get(&"vm".parse().unwrap()).unwrap()
    }

    pub(crate) async fn wait_for(&self, state: LinkState) {
        let mut changes = self.vm().link_changes();
        let reached = changes.wait_for(|link| link.state == state);
        tokio::time::timeout(BOUND, reached).await.expect("in time").unwrap();
    }

    /// Once the agent's list of commands is known.
    pub(crate) async fn known(&self) {
        let known = async {
            let mut often = tokio::time::interval(Duration::from_millis(2));
            while self.vm().capabilities().is_none() {
                often.tick().await;
            }
        };
        tokio::time::timeout(BOUND, known).await.expect("in time");
    }

    /// Over the Unix socket.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Ask {
        Ask::new(self.unix.clone(), method, path)
    }

    /// Over TCP, without a token.
    pub(crate) fn ask_tcp(&self, method: &str, path: &str) -> Ask {
        Ask::new(self.tcp.clone(), method, path)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.registry.close();
    }
}
