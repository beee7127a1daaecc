//! How many connections there are: in all, and from each address.

use crate::config::Limits;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts connections.
#[derive(Debug)]
pub(crate) struct Admission {
    counts: Mutex<Counts>,
    total: usize,
    per_address: usize,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_address: HashMap<IpAddr, u32>,
}

/// Why a connection is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The engine has as many as it takes.
    Full,
    /// This address has as many as it may.
    Address,
}

/// One admitted connection; gives its place back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Admission {
        Admission {
            counts: Mutex::default(),
            total: limits.connections,
            per_address: limits.connections_per_address,
        }
    }

    /// Admits a connection from an address.
    pub(crate) fn enter(self: &Arc<Admission>, address: IpAddr) -> Result<Permit, Refusal> {
        let address = address.to_canonical();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.total >= self.total {
            return Err(Refusal::Full);
        }
        let n = counts.by_address.entry(address).or_default();
        if self.per_address > 0 && *n as usize >= self.per_address {
            return Err(Refusal::Address);
        }
        *n += 1;
        counts.total += 1;
        Ok(Permit { admission: self.clone(), address })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.admission.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total = counts.total.saturating_sub(1);
        if let Some(n) = counts.by_address.get_mut(&self.address) {
            *n -= 1;
            if *n == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_address_and_in_all() {
        let mut limits = Limits::default();
        (limits.connections, limits.connections_per_address) = (3, 2);
        let a = Arc::new(Admission::new(&limits));
        let (x, y): (IpAddr, IpAddr) = ("127.0.0.1".parse().unwrap(), "::ffff:127.0.0.1".parse().unwrap());
        let first = a.enter(x).unwrap();
        let _second = a.enter(y).unwrap();
        assert_eq!(a.enter(x).unwrap_err(), Refusal::Address, "the mapped address is the same address");
        let _third = a.enter("::1".parse().unwrap()).unwrap();
        drop(first);
        let _again = a.enter(x).unwrap();
        assert_eq!(a.enter("::2".parse().unwrap()).unwrap_err(), Refusal::Full);
    }
}
