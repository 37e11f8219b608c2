//! An interface that changes while it is in use: its station address, its MTU, its addresses and its routes.

use super::interface::InterfaceId;
use super::route::{InterfaceAddr, Route};
use super::{ConfigError, Stack};
use crate::time::Instant;
use crate::wire::MacAddr;

impl Stack {
    /// Gives an interface another station address; peers hear of it by whoever speaks ARP for the addresses.
    ///
    /// # Errors
    /// [`ConfigError::Mac`], [`ConfigError::NoInterface`].
    pub fn set_station(&mut self, id: InterfaceId, mac: MacAddr) -> Result<(), ConfigError> {
        let interface = self.interfaces.get_mut(usize::from(id.0)).ok_or(ConfigError::NoInterface(id))?;
        if !mac.is_unicast() {
            return Err(ConfigError::Mac(mac));
        }
        interface.set_station(mac);
        Ok(())
    }

    /// Sets the largest IP packet of an interface in bytes, as far as its device carries it.
    ///
    /// # Errors
    /// [`ConfigError::Range`], [`ConfigError::NoInterface`].
    pub fn set_mtu(&mut self, id: InterfaceId, mtu: usize) -> Result<(), ConfigError> {
        let interface = self.interfaces.get_mut(usize::from(id.0)).ok_or(ConfigError::NoInterface(id))?;
        if !(68..=65_535).contains(&mtu) {
            return Err(ConfigError::Range { name: "mtu", value: mtu, allowed: "68 to 65535" });
        }
        interface.mtu = mtu.min(interface.caps.mtu);
        Ok(())
    }

    /// Gives an interface these addresses instead of those that it has, without routes to their networks. New ones are claimed as
    /// its configuration said of the first. Sockets with an address that is gone find that it is lost.
    ///
    /// # Errors
    /// [`ConfigError::NoInterface`].
    pub fn set_addresses(
        &mut self,
        now: Instant,
        id: InterfaceId,
        addrs: &[InterfaceAddr],
    ) -> Result<(), ConfigError> {
        let interface = self.interfaces.get_mut(usize::from(id.0)).ok_or(ConfigError::NoInterface(id))?;
        for ip in interface.set_addresses(now, addrs, &mut self.rng) {
            self.address_lost(now, ip);
        }
        Ok(())
    }

    /// Replaces the routes over an interface, as [`RouteTable::replace_interface`](super::route::RouteTable::replace_interface) does.
    ///
    /// # Errors
    /// [`ConfigError::NoInterface`].
    pub fn set_routes(&mut self, id: InterfaceId, routes: Vec<Route>) -> Result<(), ConfigError> {
        if usize::from(id.0) >= self.interfaces.len() {
            return Err(ConfigError::NoInterface(id));
        }
        self.routes.replace_interface(id.0, routes);
        Ok(())
    }
}
