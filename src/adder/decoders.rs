//! Uploads, for `testing::decoders`: it says whether they can be read, and panics when what was read does not hold.
