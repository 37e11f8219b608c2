//! Traces of a neighbor cache in virtual time.
