//! How many connections there are: in all, and from each address. An address counts from accept on, so that one cannot take all
//! the places for handshakes.

use crate::config::{Limit, Limits};
use crate::metrics::Metrics;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections of an address beyond its limit that may be in their handshake, so that they are told why they are refused.
const TOLD: usize = 16;

/// Counts connections.
#[derive(Debug)]
pub(crate) struct Admission {
    counts: Mutex<Counts>,
    total: usize,
    per_address: usize,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Upgraded ones.
    total: usize,
    by_address: HashMap<IpAddr, Address>,
}

#[derive(Debug, Default)]
struct Address {
    /// Accepted and not ended.
    open: usize,
    /// Upgraded ones among them.
    upgraded: usize,
}

/// Why a connection is not upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The engine has as many as it takes.
    Full,
    /// This address has as many as it may.
    Address,
}

/// One accepted connection; gives its place back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    address: IpAddr,
    upgraded: bool,
}

impl Admission {
    pub(crate) fn new(limits: &Limits, metrics: Arc<Metrics>) -> Admission {
        Admission {
            counts: Mutex::default(),
            total: limits.connections,
            per_address: limits.connections_per_address,
            metrics,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has been accepted. None: its address has so many that this one is to be closed at once.
    pub(crate) fn arrive(self: &Arc<Admission>, address: IpAddr) -> Option<Permit> {
        let address = network(address);
        let mut counts = self.lock();
        let open = counts.by_address.get(&address).map_or(0, |a| a.open);
        if self.per_address > 0 && open >= self.per_address + TOLD {
            self.metrics.limit_hits[Limit::ConnectionsPerAddress].inc();
            return None;
        }
        counts.by_address.entry(address).or_default().open += 1;
        Some(Permit { admission: self.clone(), address, upgraded: false })
    }
}

impl Permit {
    /// The connection asks for its upgrade.
    pub(crate) fn upgrade(&mut self) -> Result<(), Refusal> {
        let Admission { total, per_address, metrics, .. } = &*self.admission;
        let mut counts = self.admission.lock();
        if self.upgraded {
            return Ok(());
        }
        if counts.total >= *total {
            metrics.limit_hits[Limit::Connections].inc();
            return Err(Refusal::Full);
        }
        let address = counts.by_address.entry(self.address).or_default();
        if *per_address > 0 && address.upgraded >= *per_address {
            metrics.limit_hits[Limit::ConnectionsPerAddress].inc();
            return Err(Refusal::Address);
        }
        address.upgraded += 1;
        counts.total += 1;
        self.upgraded = true;
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let upgraded = usize::from(self.upgraded);
        let mut counts = self.admission.lock();
        counts.total = counts.total.saturating_sub(upgraded);
        if let Some(a) = counts.by_address.get_mut(&self.address) {
            a.open = a.open.saturating_sub(1);
            a.upgraded = a.upgraded.saturating_sub(upgraded);
            if a.open == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: of IPv6 the /64 network, all of which is one customer's.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(connections: usize, per_address: usize) -> (Arc<Admission>, Arc<Metrics>) {
        let mut limits = Limits::default();
        (limits.connections, limits.connections_per_address) = (connections, per_address);
        let metrics = Arc::new(Metrics::default());
        (Arc::new(Admission::new(&limits, metrics.clone())), metrics)
    }

    fn enter(a: &Arc<Admission>, address: &str) -> Result<Permit, Refusal> {
        let mut permit = a.arrive(address.parse().unwrap()).unwrap();
        permit.upgrade().map(|()| permit)
    }

    #[test]
    fn counts_by_address_and_in_all() {
        let (a, metrics) = admission(3, 2);
        let first = enter(&a, "127.0.0.1").unwrap();
        let _second = enter(&a, "::ffff:127.0.0.1").unwrap();
        assert_eq!(
            enter(&a, "127.0.0.1").unwrap_err(),
            Refusal::Address,
            "the mapped address is the same one"
        );
        let _third = enter(&a, "::1").unwrap();
        drop(first);
        let _again = enter(&a, "127.0.0.1").unwrap();
        assert_eq!(enter(&a, "::2").unwrap_err(), Refusal::Full);
        assert_eq!(metrics.limit_hits[Limit::Connections].get(), 1);
        assert_eq!(metrics.limit_hits[Limit::ConnectionsPerAddress].get(), 1);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let (a, _) = admission(100, 1);
        let _first = enter(&a, "2001:db8:0:1::1").unwrap();
        assert_eq!(enter(&a, "2001:db8:0:1:ffff::2").unwrap_err(), Refusal::Address);
        let _other = enter(&a, "2001:db8:0:2::1").unwrap();
    }

    #[test]
    fn handshakes_count_for_their_address_too() {
        let (a, metrics) = admission(100, 2);
        let arrive = || a.arrive("127.0.0.1".parse().unwrap());
        let mut open: Vec<_> = (0..2 + TOLD).map(|_| arrive().unwrap()).collect();
        assert!(arrive().is_none());
        assert_eq!(metrics.limit_hits[Limit::ConnectionsPerAddress].get(), 1);
        let _other = a.arrive("127.0.0.2".parse().unwrap()).unwrap();
        let upgraded: Vec<_> = open.iter_mut().map(Permit::upgrade).collect();
        assert_eq!(upgraded.iter().filter(|u| u.is_ok()).count(), 2);
        open.truncate(1);
        assert!(a.arrive("127.0.0.1".parse().unwrap()).is_some());
        drop(open);
        assert_eq!(a.lock().by_address.len(), 1, "nothing is kept of an address without connections");
        assert_eq!(a.lock().total, 0);
    }

    #[test]
    fn no_limit_for_an_address() {
        let (a, metrics) = admission(100, 0);
        let _all: Vec<_> = (0..100).map(|_| enter(&a, "127.0.0.1").unwrap()).collect();
        assert_eq!(enter(&a, "127.0.0.1").unwrap_err(), Refusal::Full);
        assert_eq!(metrics.limit_hits[Limit::ConnectionsPerAddress].get(), 0);
    }
}
