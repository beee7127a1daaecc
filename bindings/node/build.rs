//! Links the addon in the way that Node expects.

fn main() {
    napi_build::setup();
}
