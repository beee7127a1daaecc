//! Configuring and starting an engine.

use super::housekeeping;
use super::{Engine, Inner, Running};
use crate::broker::Broker;
use crate::broker::embedded::EmbeddedBroker;
use crate::broker::history::History;
use crate::broker::memory::MemoryBroker;
use crate::clock::{Clock, SystemClock};
use crate::codes::Code;
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::hooks::{Authorizer, PublishHook};
use crate::ids::random_bytes;
use crate::metrics::Metrics;
use crate::room::hub::{Hub, ShardPort};
use crate::room::presence::Presence;
use crate::server::admission::Admission;
use crate::server::hookpool::{HookPool, Hooks};
use crate::server::http::Site;
use crate::server::listener;
use crate::server::reader::Readers;
use crate::server::shard::Starting;
use crate::server::shared::Shared;
use crate::session::Policy;
use crate::threads;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, RwLock, mpsc};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

/// How long a start that failed may take to end what it had begun.
const FAILED_START: Duration = Duration::from_secs(5);

/// Settings and components of an engine that is to be started.
#[derive(Default)]
pub struct Builder {
    settings: Settings,
    hooks: Hooks,
    page: Option<String>,
    clock: Option<Arc<dyn Clock>>,
    echo: bool,
}

impl Builder {
    /// Replaces all settings.
    pub fn settings(mut self, settings: Settings) -> Builder {
        self.settings = settings;
        self
    }

    /// Where messages are kept: a directory, `memory`, or a Kafka topic; see [`Settings::log`].
    pub fn log(mut self, log: &str) -> Builder {
        self.settings.log = log.into();
        self
    }

    /// Adds an address to listen on: `host:port` or `[ipv6]:port`; port 0 picks a free one.
    pub fn listen(mut self, address: &str) -> Builder {
        self.settings.listen.push(address.into());
        self
    }

    /// Who decides who may connect and join. Default: everybody may.
    pub fn authorizer(mut self, authorizer: Arc<dyn Authorizer>) -> Builder {
        self.hooks.authorizer = Some(authorizer);
        self
    }

    /// Who looks at what clients publish. Default: nobody.
    pub fn publish_hook(mut self, hook: Arc<dyn PublishHook>) -> Builder {
        self.hooks.publish = Some(hook);
        self
    }

    /// The HTML page at `/`. Default: none.
    pub fn page(mut self, html: &str) -> Builder {
        self.page = Some(html.into());
        self
    }

    /// Another clock; for tests.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Builder {
        self.clock = Some(clock);
        self
    }

    /// Sends every WebSocket message back as it came, in place of the protocol: for the tests of the WebSocket itself.
    /// Settings are not checked, for these tests need messages larger than any that the protocol allows.
    #[doc(hidden)]
    pub fn echo(mut self) -> Builder {
        self.echo = true;
        self
    }

    /// Opens the log, brings the view up to it, binds the addresses and starts. Waits for all of that.
    ///
    /// Errors: `invalid_config`, `data_dir_locked`, `data_dir_unusable`, `address_unusable`; `internal` where the system refuses a thread
    /// or a descriptor. Whatever had begun has ended when an error is returned. A log with damage that nobody has accepted starts: it
    /// can be read, publishes fail with `log_damaged`.
    ///
    /// The settings' directory is taken as it is now: a later change of the current directory changes nothing. It may be called
    /// anywhere, also in an async task, whose thread it blocks.
    pub fn start(self) -> Result<Engine> {
        if !self.echo {
            self.settings.check()?;
        }
        // Addresses first: a port in use should not cost the opening of a large log.
        let settings = &self.settings;
        let listeners = settings.listen.iter().map(|a| listener::bind(a)).collect::<Result<Vec<_>>>()?;
        let addresses = listener::addresses(&listeners);
        let clock = self.clock.clone().unwrap_or_else(|| Arc::new(SystemClock::new()));
        let metrics = Arc::new(Metrics::default());
        let opened = open(settings, &clock, &metrics)?;
        let broker = opened.broker.clone();
        let started = self.run(opened, clock.clone(), metrics, listeners, addresses);
        if started.is_err() {
            // The directory is free again when the error is returned. That it could not be closed well is the lesser news.
            let _ = broker.stop(clock.steady_ms() + FAILED_START.as_millis() as u64);
        }
        started
    }

    /// Starts everything above the broker. An engine that is given up half way stops what it has.
    fn run(
        self,
        Opened { broker, hub }: Opened,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        listeners: Vec<TcpListener>,
        addresses: Vec<SocketAddr>,
    ) -> Result<Engine> {
        let settings = self.settings;
        let history = Arc::new(History::new(broker.clone(), hub.clone(), &settings.limits, metrics.clone()));
        let count = match settings.shards {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let reads = count * settings.limits.history_reads.max(1);
        let readers = Readers::start(&history, reads).map_err(no_thread)?;
        let hooked = self.hooks.authorizer.is_some() || self.hooks.publish.is_some();
        let policy = Policy {
            limits: settings.limits.clone(),
            authorizer: self.hooks.authorizer.is_some(),
            publish_hook: self.hooks.publish.is_some(),
            open_users: settings.open_users,
        };
        let pool = if hooked {
            let pool = HookPool::start(self.hooks, &settings.limits, clock.clone(), metrics.clone());
            Some(pool.map_err(no_thread)?)
        } else {
            None
        };
        let shared = Arc::new(Shared {
            broker,
            hub: hub.clone(),
            history,
            presence: Arc::new(Presence::new(settings.limits.presence_names, metrics.clone())),
            readers,
            hooks: pool,
            events: Arc::new(Events::new(settings.limits.event_queue, metrics.clone())),
            metrics,
            clock,
            connection_seed: u64::from_le_bytes(random_bytes()),
            policy,
        });
        let starting: Vec<Starting> =
            (0..count as u32).map(Starting::new).collect::<io::Result<_>>().map_err(no_thread)?;
        let shards: Vec<_> = starting.iter().map(|s| s.inbox.clone()).collect();
        hub.set_ports(shards.iter().map(|s| s.clone() as Arc<dyn ShardPort>).collect());
        let site = Arc::new(Site {
            shared: shared.clone(),
            admission: Arc::new(Admission::new(&settings.limits, shared.metrics.clone())),
            given: Arc::new(Semaphore::new(settings.limits.handshakes.max(1))),
            shards,
            next: AtomicUsize::new(0),
            origins: settings.origins.clone(),
            page: self.page.map(Into::into),
            stopping: AtomicBool::new(false),
        });
        let mut running = Running::default();
        let begun = begin(&mut running, &site, (starting, self.echo), listeners, settings.dedupe_window_ms);
        match begun {
            Ok(pool) => Ok(Engine(Arc::new(Inner {
                metrics: shared.metrics.clone(),
                events: shared.events.clone(),
                site: RwLock::new(Some(site)),
                pool: Mutex::new(Some(Arc::new(pool))),
                addresses,
                stopped: AtomicBool::new(false),
                running: Mutex::new(Some(running)),
            }))),
            Err(e) => {
                // Of the log it is heard below.
                let _ = super::end(running, &site, FAILED_START);
                Err(no_thread(e))
            }
        }
    }
}

/// A broker, and what its tails feed.
struct Opened {
    broker: Arc<dyn Broker>,
    hub: Arc<Hub>,
}

/// Opens the log that the settings name.
fn open(settings: &Settings, clock: &Arc<dyn Clock>, metrics: &Arc<Metrics>) -> Result<Opened> {
    let (clock, metrics) = (clock.clone(), metrics.clone());
    #[cfg(feature = "_kafka")]
    if settings.log.starts_with(crate::broker::kafka::address::SCHEME) {
        let broker = crate::broker::kafka::KafkaBroker::open(settings, clock, metrics)?;
        let hub = broker.hub().clone();
        return Ok(Opened { broker: Arc::new(broker), hub });
    }
    let (broker, tail): (Arc<dyn Broker>, _) = if settings.log == "memory" {
        let broker = MemoryBroker::new(settings, clock, metrics)?;
        let tail = broker.tail().clone();
        (Arc::new(broker), tail)
    } else {
        let dir = std::path::absolute(&settings.log)
            .map_err(|e| Error::new(Code::DataDirUnusable, format!("where is {}? {e}", settings.log)))?;
        let broker = EmbeddedBroker::open(&dir, settings, clock, metrics)?;
        let tail = broker.tail().clone();
        (Arc::new(broker), tail)
    };
    Ok(Opened { broker, hub: tail.hub().clone() })
}

/// Starts the threads of a site. Returns the way to threads that may block.
fn begin(
    running: &mut Running,
    site: &Arc<Site>,
    (shards, echo): (Vec<Starting>, bool),
    listeners: Vec<TcpListener>,
    window_ms: u64,
) -> io::Result<Handle> {
    for shard in shards {
        running.shards.push(shard.start(site.shared.clone(), echo)?);
    }
    let (io_stop, stopping) = watch::channel(false);
    let (began, has_begun) = mpsc::channel();
    let thread = {
        let site = site.clone();
        // The runtime begins and ends on its own thread: a host's runtime suffers no other to be dropped inside it.
        threads::spawn("klatch-io".into(), move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(4)
                .thread_name("klatch-blocking")
                .build();
            // The other end waits for one of these.
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(e) => return drop(began.send(Err(e))),
            };
            let _ = began.send(Ok(runtime.handle().clone()));
            for l in listeners {
                runtime.spawn(listener::accept(l, site.clone(), stopping.clone()));
            }
            housekeeping::keep(&runtime, &site.shared, &stopping);
            runtime.shutdown_timeout(Duration::from_millis(100));
        })?
    };
    running.io = Some((thread, io_stop));
    let pool = has_begun.recv().unwrap_or_else(|_| Err(io::Error::other("the io thread ended")))?;
    let (keeper_stop, stop) = mpsc::channel();
    let hub = site.shared.hub.clone();
    let keep = move || housekeeping::keep_view(&hub, window_ms, &stop);
    running.keeper = Some((threads::spawn("klatch-view".into(), keep)?, keeper_stop));
    Ok(pool)
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn no_thread(e: io::Error) -> Error {
    Error::new(Code::Internal, format!("the system refused a thread or descriptor: {e}"))
}
