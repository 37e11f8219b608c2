//! With the feature `dpdk`: finds the installed DPDK, generates the bindings and compiles the C wrappers of
//! its inline functions. Without it: nothing.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "dpdk")]
    if let Err(error) = dpdk::build() {
        println!("cargo::error={}", error.replace('\n', " "));
    }
}

#[cfg(feature = "dpdk")]
mod dpdk {
    use std::env;
    use std::panic;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// The oldest release that compat.h knows.
    const OLDEST: (u32, u32) = (22, 11);

    /// Functions that Rust calls. Inline ones get a C wrapper, one call more: see the cost model in
    /// src/lib.rs.
    const FUNCTIONS: &[&str] = &[
        "nty_.*",
        "rte_dev_(probe|remove)",
        "rte_epoll_wait",
        "rte_eal_(cleanup|get_runtime_dir|init)",
        "rte_eth_(allmulticast|promiscuous)_enable",
        "rte_eth_dev_(adjust_nb_rx_tx_desc|close|configure|get_mtu|set_mtu|info_get|start|stop)",
        "rte_eth_dev_(is_removed|rss_reta_update)",
        "rte_eth_dev_rx_intr_(disable|enable)",
        "rte_eth_dev_(get_name_by_port|get_port_by_name)",
        "rte_eth_find_next",
        "rte_eth_from_rings",
        "rte_eth_macaddr_get",
        "rte_eth_[rt]x_(burst|queue_setup)",
        "rte_eth_stats_(get|reset)",
        "rte_eth_tx_prepare",
        "rte_eth_xstats_(get|get_names|reset)",
        "rte_mempool_(avail_count|free)",
        "rte_pktmbuf_(alloc_bulk|free_bulk|pool_create)",
        "rte_ring_(create|free|get_memsize_elem|init)",
        "rte_ring_(dequeue|enqueue)_burst_elem",
        "rte_strerror",
        "rte_thread_(register|unregister)",
        "rte_version",
    ];

    /// Types beyond those that the functions name.
    const TYPES: &[&str] = &["nty_mbuf_offset", "nty_tx_offload_bit"];

    /// Macros that are plain numbers.
    const CONSTANTS: &[&str] = &[
        "NTY_.*",
        "RING_F_(EXACT_SZ|S[PC]_.*)",
        "RTE_ETH_NAME_MAX_LEN",
        "RTE_ETH_RETA_GROUP_SIZE",
        "RTE_MAX_ETHPORTS",
        "RTE_PKTMBUF_HEADROOM",
    ];

    /// Types of which Rust holds pointers only; rte_mbuf is read by compat.h's offsets.
    const OPAQUE: &[&str] = &["rte_mbuf", "rte_mempool", "rte_ring", "rte_device"];

    /// Insides of the opaque rte_mbuf, and types that bindgen cannot lay out; nothing bound needs them.
    const BLOCKED: &str = "rte_mbuf__bindgen_ty.*|rte_flow.*|rte_l2tpv2.*|rte_gtp.*";

    /// Libraries whose functions are bound. EAL loads the drivers by itself; rte_eth_from_rings is one
    /// driver's own API.
    const LIBRARIES: &[&str] =
        &["rte_eal", "rte_ethdev", "rte_mbuf", "rte_mempool", "rte_ring", "rte_net_ring"];

    /// The release since which logging is a library of its own.
    const OWN_LOG: (u32, u32) = (23, 11);

    pub(super) fn build() -> Result<(), String> {
        for name in ["PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "PKG_CONFIG_SYSROOT_DIR"] {
            println!("cargo::rerun-if-env-changed={name}");
        }
        println!("cargo::rerun-if-changed=wrapper.h");
        println!("cargo::rerun-if-changed=compat.h");
        let found = Installed::find()?;
        let out = PathBuf::from(variable("OUT_DIR")?);
        let source = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
        // The generated C file includes wrapper.h by this name, from OUT_DIR.
        let mut flags = found.flags.clone();
        flags.push(format!("-I{}", source.display()));
        let wrappers = out.join("wrappers.c");
        bindings(&flags, &wrappers, &out.join("bindings.rs"))?;

        let mut compiler = cc::Build::new();
        compiler.file(&wrappers).warnings(false).opt_level(3);
        for flag in &flags {
            compiler.flag(flag);
        }
        compiler.try_compile("nty_dpdk_wrappers").map_err(|error| {
            format!("the C wrappers do not compile ({error}): is a C compiler installed? apt-get install build-essential")
        })?;
        found.link();
        Ok(())
    }

    /// What pkg-config says of DPDK.
    struct Installed {
        version: String,
        /// Year and month of that.
        release: (u32, u32),
        /// All of the flags. The pkg-config crate would drop `-include rte_config.h` and `-march`, without
        /// which the headers do not compile or, worse, lay out structures otherwise than the library does.
        flags: Vec<String>,
        includes: String,
        libraries: String,
    }

    impl Installed {
        fn find() -> Result<Installed, String> {
            let version = pkg_config("--modversion")?;
            let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
            let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            if release < OLDEST {
                let (year, month) = OLDEST;
                return Err(format!("DPDK {version} is too old: {year}.{month:02} or newer is needed"));
            }
            let flags = pkg_config("--cflags")?.split_whitespace().map(str::to_owned).collect();
            let includes = pkg_config("--variable=includedir")?;
            Ok(Installed { version, release, flags, includes, libraries: pkg_config("--variable=libdir")? })
        }

        /// Links the shared libraries, and tells dependents where they are: as
        /// DEP_DPDK_{VERSION,LIBDIR,INCLUDE,RPATH} in the build script of a package that names dpdk-sys among
        /// its dependencies.
        fn link(&self) {
            println!("cargo::rustc-link-search=native={}", self.libraries);
            let log = (self.release >= OWN_LOG).then_some("rte_log");
            for library in LIBRARIES.iter().copied().chain(log) {
                println!("cargo::rustc-link-lib=dylib={library}");
            }
            println!("cargo::metadata=VERSION={}", self.version);
            println!("cargo::metadata=LIBDIR={}", self.libraries);
            println!("cargo::metadata=INCLUDE={}", self.includes);
            // The loader finds /lib and /usr/lib without help; a DPDK of one's own elsewhere needs an rpath,
            // which only the package that links the program can set. This one sets it for its own tests.
            if !["/usr/lib", "/lib"].iter().any(|system| Path::new(&self.libraries).starts_with(system)) {
                println!("cargo::metadata=RPATH={}", self.libraries);
                println!("cargo::rustc-link-arg=-Wl,-rpath,{}", self.libraries);
            }
        }
    }

    /// Writes the Rust declarations, and the C wrappers of inline functions.
    fn bindings(flags: &[String], wrappers: &Path, declarations: &Path) -> Result<(), String> {
        let mut builder = bindgen::Builder::default()
            .header("wrapper.h")
            .clang_args(flags)
            .blocklist_type(BLOCKED)
            .wrap_static_fns(true)
            .wrap_static_fns_path(wrappers)
            .prepend_enum_name(false)
            .derive_debug(false)
            .derive_copy(true)
            .layout_tests(true)
            .generate_comments(false)
            .rust_edition(bindgen::RustEdition::Edition2024)
            .merge_extern_blocks(true)
            .use_core();
        for name in FUNCTIONS {
            builder = builder.allowlist_function(name);
        }
        for name in TYPES {
            builder = builder.allowlist_type(name);
        }
        for name in CONSTANTS {
            builder = builder.allowlist_var(name);
        }
        for name in OPAQUE {
            builder = builder.opaque_type(name);
        }
        // bindgen panics when it cannot load libclang.
        panic::catch_unwind(panic::AssertUnwindSafe(|| builder.generate()))
            .map_err(|_| "libclang is missing: apt-get install libclang-dev clang".to_owned())?
            .map_err(|error| format!("bindgen over DPDK's headers: {error}"))?
            .write_to_file(declarations)
            .map_err(|error| format!("{}: {error}", declarations.display()))
    }

    /// What `pkg-config WHAT libdpdk` prints.
    fn pkg_config(what: &str) -> Result<String, String> {
        let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
        let output = Command::new(&program).args([what, "libdpdk"]).output().map_err(|error| {
            format!(
                "{program} does not start ({error}); it finds DPDK: apt-get install pkg-config libdpdk-dev"
            )
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let reason = String::from_utf8_lossy(&output.stderr);
        Err(format!(
            "the feature `dpdk` needs an installed DPDK, and pkg-config finds none. Debian and Ubuntu: apt-get install \
             build-essential libdpdk-dev libclang-dev clang pkg-config. A build of one's own: name the directory of libdpdk.pc in \
             PKG_CONFIG_PATH. pkg-config says: {}",
            reason.trim()
        ))
    }

    fn variable(name: &str) -> Result<String, String> {
        env::var(name).map_err(|error| format!("{name}: {error}"))
    }
}
