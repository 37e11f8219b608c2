//! A table of sockets whose names grow stale: each slot counts how often it was used, and a name fits only the use that
//! it was given for.

/// Slots of `T`, named by index and generation.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// Puts what `make` builds from the index and generation of its slot into the table, and answers that index.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(u32, u32) -> T) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            (self.slots.len() - 1) as u32
        });
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.value = Some(make(index, slot.generation));
        }
        index
    }

    /// Takes a value out; its name is stale from then on.
    pub(crate) fn remove(&mut self, index: u32, generation: u32) -> Option<T> {
        let slot = self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    /// The value under a name.
    pub(crate) fn get(&self, index: u32, generation: u32) -> Option<&T> {
        self.slots.get(index as usize).filter(|slot| slot.generation == generation)?.value.as_ref()
    }

    /// The value under a name, to be changed.
    pub(crate) fn get_mut(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation)?.value.as_mut()
    }

    /// The value in a slot, whichever use it is; for indices that the owner keeps fresh itself.
    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize)?.value.as_ref()
    }

    /// As [`Slots::at`], to be changed.
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)?.value.as_mut()
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_name_never_reaches_the_next_user_of_the_slot() {
        let mut slots = Slots::default();
        assert_eq!(slots.insert_with(|i, g| (i, g)), 0);
        assert_eq!(slots.remove(0, 0), Some((0, 0)));
        assert_eq!(slots.insert_with(|i, g| (i, g)), 0);
        assert_eq!((slots.get(0, 0), slots.get(0, 1)), (None, Some(&(0, 1))));
        assert_eq!(slots.remove(0, 0), None);
        assert_eq!(slots.len(), 1);
    }
}
