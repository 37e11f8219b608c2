//! Where the names are inside record data: what may be compressed, what is looked up for the additional section,
//! and what must be well-formed before a record is stored.

use core::ops::Range;

use super::wire::{Name, rtype};

/// The shape of the data of a type that holds names.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Octets in front of the first name.
    before: usize,
    /// How many names follow one another.
    names: usize,
    /// Octets behind the names; `None` for any number.
    after: Option<usize>,
    /// RFC 3597 4: only the names of the types of RFC 1035 may be compressed.
    pub(super) compress: bool,
    /// RFC 1035 3.3, RFC 2782: the first name is a host whose addresses go to the additional section.
    pub(super) addresses: bool,
}

/// The shape of the data of `rtype`, or `None` when its data has no names or is not looked into.
pub(super) fn layout(rtype: u16) -> Option<Layout> {
    let one = Layout { before: 0, names: 1, after: Some(0), compress: true, addresses: false };
    Some(match rtype {
        rtype::NS => Layout { addresses: true, ..one },
        rtype::CNAME | rtype::PTR | rtype::MB | rtype::MD | rtype::MF | rtype::MG | rtype::MR => one,
        rtype::SOA => Layout { names: 2, after: Some(20), ..one },
        rtype::MINFO => Layout { names: 2, ..one },
        rtype::MX => Layout { before: 2, addresses: true, ..one },
        rtype::RP => Layout { names: 2, compress: false, ..one },
        rtype::AFSDB | rtype::RT | rtype::KX => Layout { before: 2, compress: false, ..one },
        rtype::SRV => Layout { before: 6, compress: false, addresses: true, ..one },
        rtype::DNAME => Layout { compress: false, ..one },
        rtype::SVCB | rtype::HTTPS => Layout { before: 2, after: None, compress: false, ..one },
        _ => return None,
    })
}

impl Layout {
    /// The places of the names in `rdata` (at most two), or `None` when it does not have this shape.
    pub(super) fn names(self, rdata: &[u8]) -> Option<[Range<usize>; 2]> {
        let mut places = [0..0, 0..0];
        let mut at = self.before;
        for place in places.iter_mut().take(self.names) {
            let (_, end) = Name::parse(rdata, at)?;
            *place = at..end;
            at = end;
        }
        let rest = rdata.len().checked_sub(at)?;
        self.after.is_none_or(|n| n == rest).then_some(places)
    }
}

/// Whether `rdata` can be the data of a record of `rtype` as far as the server itself relies on it.
///
/// Data in the generic form of RFC 3597 reaches us unchecked; addresses and names must still be what they claim.
pub(super) fn is_well_formed(rtype: u16, rdata: &[u8]) -> bool {
    match rtype {
        rtype::A => rdata.len() == 4,
        rtype::AAAA => rdata.len() == 16,
        _ => layout(rtype).is_none_or(|layout| layout.names(rdata).is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_odd_shapes_refused() {
        let mx = layout(rtype::MX).unwrap();
        assert_eq!(mx.names(b"\x00\x0a\x01a\x00").unwrap()[0], 2..5);
        assert!(mx.names(b"\x00\x0a\x01a\x00x").is_none(), "trailing octet");
        assert!(mx.names(b"\x00\x0a\xc0\x0c").is_none(), "pointer");
        assert!(mx.names(b"\x00").is_none(), "cut short");
        assert!(is_well_formed(rtype::A, &[1, 2, 3, 4]) && !is_well_formed(rtype::A, &[1, 2, 3]));
        assert!(is_well_formed(65_280, b"anything"));
    }
}
