# shellcheck shell=sh
# The launcher's steps. Read by ./lifeboat, which sets LIFEBOAT_ROOT, LIFEBOAT_CACHE and
# MICROPYTHON_DIR (empty: fetch the source).
#
# A step NAME consists of
#   NAME_text    what it is going to do, for people
#   NAME_key     what its result depends on, as text
#   NAME_there   whether there is a result
#   NAME_do      the work; all its output goes to log/NAME.log
#   NAME_hint    what to do when it fails
# A step is up to date when its result is there and its stamp holds its key. The stamp is
# written last, so a step that was interrupted is done again. A step must not trust what an
# earlier try left behind.

MICROPYTHON_PIN=1.25.0+ds-1
# SHA-256 of that version's micropython_1.25.0+ds.orig.tar.xz.
MICROPYTHON_SUM=7b25be99a502f070b2de81dafc08da7051d992325d6e67daa9045a918fffdbea
MICROPYTHON_MINIMUM=1.25

say() {
    printf 'lifeboat: %s\n' "$*" >&2
}

# set_up STEP...: bring these steps up to date, in this order.
set_up() {
    todo=$(outdated "$@")
    [ -n "$todo" ] || return 0
    mkdir -p "$LIFEBOAT_CACHE/log" "$LIFEBOAT_CACHE/stamps"
    exec 9>"$LIFEBOAT_CACHE/lock"
    if ! flock -n 9; then
        say "waiting for another lifeboat that is setting up in $LIFEBOAT_CACHE"
        flock 9
        todo=$(outdated "$@")
    fi
    if [ -n "$todo" ]; then
        trap 'say "interrupted; the same command goes on from here"; exit 130' INT TERM
        say "setting up in $LIFEBOAT_CACHE"
        for step in $todo; do
            say "  - $("${step}_text")"
        done
        # A step can outdate a later one, hence all are looked at again.
        for step in "$@"; do
            [ -z "$(outdated "$step")" ] || run_step "$step"
        done
        trap - INT TERM
    fi
    exec 9>&-
}

outdated() {
    for step in "$@"; do
        stamp=$LIFEBOAT_CACHE/stamps/$step
        "${step}_there" && [ "$("${step}_key")" = "$(cat "$stamp" 2>/dev/null)" ] || echo "$step"
    done
}

run_step() {
    log=$LIFEBOAT_CACHE/log/$1.log
    stamp=$LIFEBOAT_CACHE/stamps/$1
    rm -f "$stamp"
    say "$("${1}_text") ..."
    started=$(date +%s)
    # Taken before the work: what changes meanwhile is for the next time.
    key=$("${1}_key")
    # Not in a condition: that would switch -e off inside.
    set +e
    (
        set -e
        cd "$LIFEBOAT_ROOT"
        "${1}_do"
    ) >"$log" 2>&1
    status=$?
    set -e
    if [ "$status" -ne 0 ]; then
        say "FAILED: $("${1}_text")"
        tail -n 15 "$log" | sed 's/^/    /' >&2
        say "the whole log: $log"
        say "what to do: $("${1}_hint")"
        exit 1
    fi
    echo "$key" >"$stamp.new"
    mv "$stamp.new" "$stamp"
    say "    done in $(($(date +%s) - started)) s"
}

sum_of() {
    cat "$@" | cksum
}

# make_in DIR BUILD ARGUMENT...: run make in DIR with output below the cache folder's BUILD.
# Make cannot handle blanks in file names; relative paths keep out those above our folders.
make_in() {
    dir=$1
    build=$(realpath -m --relative-to="$dir" "$LIFEBOAT_CACHE/$2")
    shift 2
    # MicroPython asks git for its version; do not let it find lifeboat's repository.
    GIT_CEILING_DIRECTORIES=$LIFEBOAT_CACHE make -C "$dir" -j2 BUILD="$build" \
        PYTHON="$(realpath -s --relative-to="$dir" "$LIFEBOAT_CACHE/venv/bin/python3")" "$@"
}

# ---- packages, test_packages, pico_packages ----

PACKAGES=packages.txt

# The packages of the list that are not installed, alternatives as in the list.
packages_missing() {
    # shellcheck disable=SC2016
    grep -v '^#' "$LIFEBOAT_ROOT/host_tools/$PACKAGES" | while read -r names; do
        found=$(echo "$names" | tr '|' '\n' | xargs -r dpkg-query -W -f '${db:Status-Status}\n' \
            2>/dev/null | grep -cx installed) || true
        [ -z "$names" ] || [ "$found" -gt 0 ] || echo "$names"
    done
}

packages_text() {
    echo "install packages with apt-get: $(packages_missing | paste -sd " ")"
}

# Packages come and go behind our back, so no stamp can tell.
packages_key() {
    :
}

packages_there() {
    [ -z "$(packages_missing)" ]
}

packages_do() {
    command -v apt-get || {
        echo "no apt-get: this is neither Debian nor Ubuntu"
        return 1
    }
    sudo=
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo || {
            echo "not root, and no sudo"
            return 1
        }
        sudo=sudo
    fi
    # One broken list among many need not matter.
    $sudo apt-get update || true
    names=
    for alternatives in $(packages_missing); do
        chosen=
        for name in $(echo "$alternatives" | tr '|' ' '); do
            if [ -z "$chosen" ] && apt-cache show --no-all-versions "$name" >/dev/null; then
                chosen=$name
            fi
        done
        names="$names ${chosen:-$alternatives}"
    done
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 $names
    packages_there
}

packages_hint() {
    echo "run this as root, then try again: apt-get update && apt-get install" \
        "$(packages_missing | sed 's/|/ or /g' | paste -sd ' ')"
}

# packages_step STEP FILE: a step like `packages`, with another list.
packages_step() {
    for part in text key there do hint; do
        eval "$1_$part() ( PACKAGES=$2; packages_$part )"
    done
}

# What only tests need, more than a gigabyte once installed; what a Pico needs.
packages_step test_packages packages-test.txt
packages_step pico_packages packages-pico.txt

# ---- venv ----

venv_text() {
    echo "make the Python environment of the host tools"
}

venv_key() {
    echo "$LIFEBOAT_ROOT"
    (
        cd "$LIFEBOAT_ROOT"
        sum_of pyproject.toml host_tools/requirements-build.txt host_tools/requirements-run.txt
    )
}

venv_there() {
    [ -x "$LIFEBOAT_CACHE/venv/bin/python3" ] && [ -x "$LIFEBOAT_CACHE/venv/bin/lifeboat" ]
}

# The first python3 that can make an environment.
find_python() {
    for python in python3 /usr/bin/python3; do
        if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 9))'; then
            echo "$python"
            return 0
        fi
    done
    echo "no python3 >= 3.9 with the modules venv and ensurepip" >&2
    return 1
}

venv_do() {
    python=$(find_python) || {
        packages_do
        python=$(find_python)
    }
    "$python" -m venv --clear "$LIFEBOAT_CACHE/venv"
    pip_locked build
    pip_locked run
    "$LIFEBOAT_CACHE/venv/bin/python3" -m pip install --no-deps --no-build-isolation --editable .
}

# pip_locked NAME [ARGUMENT...]: install host_tools/requirements-NAME.txt, which host_tools/lock.sh
# makes: just these versions, and only files that have the sums that stand there.
pip_locked() {
    list=host_tools/requirements-$1.txt
    shift
    "$LIFEBOAT_CACHE/venv/bin/python3" -m pip install --require-hashes --no-build-isolation \
        --requirement "$list" "$@"
}

venv_hint() {
    echo "check that pip reaches its package index, and that $(command -v python3) is 3.9 or newer"
}

# ---- test_venv: what only tests need ----

test_venv_text() {
    echo "install what tests need into the Python environment (pytest, hypothesis, mypy, ruff)"
}

test_venv_key() {
    venv_key
    sum_of "$LIFEBOAT_ROOT/host_tools/requirements-test.txt"
}

test_venv_there() {
    "$LIFEBOAT_CACHE/venv/bin/python3" -c '
import importlib.util, sys
sys.exit(any(map(lambda n: importlib.util.find_spec(n) is None, ("pytest", "hypothesis", "mypy"))))'
}

test_venv_do() {
    pip_locked test
}

test_venv_hint() {
    venv_hint
}

# ---- micropython ----

micropython_text() {
    if [ -n "$MICROPYTHON_DIR" ]; then
        echo "use the MicroPython source in $MICROPYTHON_DIR"
    else
        echo "fetch MicroPython's source with a private apt (package micropython, 30 MB)"
    fi
}

micropython_key() {
    if [ -n "$MICROPYTHON_DIR" ]; then
        echo "folder $MICROPYTHON_DIR"
    else
        echo "package $MICROPYTHON_PIN"
    fi
}

micropython_there() {
    [ -f "$LIFEBOAT_CACHE/micropython/py/mpconfig.h" ]
}

# For what is built from it: which source, and which version of it.
source_key() {
    micropython_key
    sum_of "$LIFEBOAT_CACHE/micropython/py/mpconfig.h" 2>/dev/null
}

# Private apt: own lists, own cache; sees one suite of the mirror the machine is set up for.
private_apt() {
    command=$1
    shift
    "$command" -o "Dir::State::lists=$LIFEBOAT_CACHE/apt/lists" \
        -o "Dir::Cache=$LIFEBOAT_CACHE/apt/cache" \
        -o "Dir::Etc::sourcelist=$LIFEBOAT_CACHE/apt/sources.list" \
        -o Dir::Etc::sourceparts=/dev/null -o Acquire::Languages=none \
        -o APT::Sandbox::User="$(id -un)" "$@"
}

# Point private_apt at a suite that has MicroPython's source; sets $version.
choose_suite() {
    # shellcheck source=/dev/null
    . /etc/os-release
    suites=trixie
    components=main
    if [ "$ID" = ubuntu ]; then
        suites="$VERSION_CODENAME resolute devel"
        components="main universe"
    fi
    signed_by=
    for keyring in gpg pgp; do
        keyring=/usr/share/keyrings/$ID-archive-keyring.$keyring
        [ ! -f "$keyring" ] || signed_by="[signed-by=$keyring]"
    done
    # shellcheck disable=SC2016
    mirrors=$(apt-get indextargets --no-release-info 'Created-By: Packages' \
        --format '$(COMPONENT) $(RELEASE) $(REPO_URI)' | sed -n 's/^main [^ -]* //p' | sort -u)
    mkdir -p "$LIFEBOAT_CACHE/apt/lists/partial" "$LIFEBOAT_CACHE/apt/cache/archives/partial"
    for mirror in $mirrors; do
        for suite in $suites; do
            echo "== $mirror $suite"
            for kind in deb deb-src; do
                echo "$kind $signed_by $mirror $suite $components"
            done >"$LIFEBOAT_CACHE/apt/sources.list"
            private_apt apt-get -q update || continue
            versions=$(private_apt apt-cache showsrc micropython | sed -n 's/^Version: //p')
            for version in $MICROPYTHON_PIN $versions; do
                if echo "$versions" | grep -qxF "$version" \
                    && dpkg --compare-versions "$version" ge "$MICROPYTHON_MINIMUM"; then
                    return 0
                fi
            done
        done
    done
    echo "no mirror of this machine has MicroPython's source package ($suites)"
    return 1
}

micropython_do() {
    tree=$LIFEBOAT_CACHE/micropython
    # What was built belongs to the source that goes now.
    rm -rf "$tree" "$LIFEBOAT_CACHE/boards" "$LIFEBOAT_CACHE/unix" "$LIFEBOAT_CACHE/mps2_an385"
    if [ -n "$MICROPYTHON_DIR" ]; then
        [ -f "$MICROPYTHON_DIR/py/mpconfig.h" ] || {
            echo "$MICROPYTHON_DIR: no MicroPython source here (no py/mpconfig.h)"
            return 1
        }
        ln -s "$MICROPYTHON_DIR" "$tree"
    else
        choose_suite
        rm -rf "$LIFEBOAT_CACHE/fetch"
        mkdir "$LIFEBOAT_CACHE/fetch"
        cd "$LIFEBOAT_CACHE/fetch"
        private_apt apt-get -q source --download-only "micropython=$version"
        # apt has checked its sum against the signed list. The pinned version has to be the very
        # file that lifeboat was tested with; a release that has only another one says so here.
        if [ "$version" = "$MICROPYTHON_PIN" ]; then
            echo "$MICROPYTHON_SUM  $(echo micropython_*.orig.tar.xz)" | sha256sum --check --strict
        else
            echo "MicroPython $version instead of $MICROPYTHON_PIN: its sum is apt's alone"
        fi
        # The tarball alone: the sources as upstream released them.
        mkdir tree
        tar -xJf micropython_*.orig.tar.xz -C tree --strip-components=1
        mv tree "$tree"
    fi
    have=$(awk '/define MICROPY_VERSION_M(AJ|IN)OR / { v = v d $3; d = "." } END { print v }' \
        "$tree/py/mpconfig.h")
    dpkg --compare-versions "$have" ge "$MICROPYTHON_MINIMUM" || {
        echo "MicroPython $have is too old: $MICROPYTHON_MINIMUM or newer is needed"
        return 1
    }
}

micropython_hint() {
    echo "check the network and the machine's apt sources, or set MICROPYTHON_DIR to a" \
        "MicroPython source tree, $MICROPYTHON_MINIMUM or newer"
}

# ---- mpy_cross, unix ----

mpy_cross_text() {
    echo "build MicroPython's cross compiler, mpy-cross (half a minute)"
}

mpy_cross_key() {
    source_key
}

mpy_cross_there() {
    [ -x "$LIFEBOAT_CACHE/micropython/mpy-cross/build/mpy-cross" ]
}

mpy_cross_do() {
    GIT_CEILING_DIRECTORIES=$LIFEBOAT_CACHE make -C "$LIFEBOAT_CACHE/micropython/mpy-cross" -j2
}

mpy_cross_hint() {
    echo "see the log; ./lifeboat setup goes on from here"
}

unix_text() {
    echo "build MicroPython for this machine, for tests (half a minute)"
}

unix_key() {
    source_key
}

unix_there() {
    [ -x "$LIFEBOAT_CACHE/unix/micropython" ]
}

# Without the parts that need libraries which the source package does not contain.
unix_do() {
    rm -rf "$LIFEBOAT_CACHE/unix"
    mkdir "$LIFEBOAT_CACHE/unix"
    make_in "$(readlink -e "$LIFEBOAT_CACHE/micropython")/ports/unix" unix/build \
        MICROPY_PY_SSL=0 MICROPY_PY_BTREE=0 MICROPY_PY_FFI=0 MPY_LIB_DIR=../.. \
        FROZEN_MANIFEST=../../extmod/asyncio/manifest.py
    cp "$LIFEBOAT_CACHE/unix/build/micropython" "$LIFEBOAT_CACHE/unix/micropython"
}

unix_hint() {
    mpy_cross_hint
}

# ---- firmware ----

# The boards of our port.
firmware_boards() {
    for header in "$LIFEBOAT_ROOT"/boards/*/mach.h; do
        basename "$(dirname "$header")"
    done
}

firmware_text() {
    echo "build the firmware of the boards $(firmware_boards | paste -sd " ")" \
        "(half a minute each, less after small changes)"
}

# Make knows what to do; this only says whether it is worth asking.
firmware_key() {
    source_key
    (
        cd "$LIFEBOAT_ROOT"
        find firmware boards -name __pycache__ -prune -o -type f -printf '%p %T@\n' | sort | cksum
    )
}

# The boards with each policy; what is built first is the same in all but one file.
firmware_builds() {
    for board in $(firmware_boards); do
        for policy in unsigned signed; do
            echo "$board-$policy"
        done
    done
}

firmware_there() {
    for build in $(firmware_builds); do
        [ -f "$LIFEBOAT_CACHE/boards/$build/firmware.bin" ] || return 1
    done
}

firmware_do() {
    port=$LIFEBOAT_ROOT/boards/port
    source=$(realpath --relative-to="$port" "$LIFEBOAT_CACHE/micropython")
    for build in $(firmware_builds); do
        board=${build%-*} policy=${build##*-}
        built=$LIFEBOAT_CACHE/boards/$build
        if [ ! -d "$built" ] && [ "$policy" != unsigned ]; then
            cp -a "$LIFEBOAT_CACHE/boards/$board-unsigned" "$built.new"
            # Newer than the policy that goes there, so make would leave it.
            rm "$built.new/frozen_mpy/policy.mpy" "$built.new/frozen_content.c"
            # What depends on which header is noted with the folder's name.
            find "$built.new" -name '*.P' \
                -exec sed -i "s|boards/$board-unsigned/|boards/$build/|g" {} +
            mv "$built.new" "$built"
        fi
        mkdir -p "$built"
        make_in "$port" "boards/$build" "BOARD=$board" "MPY_TOP=$source" \
            "POLICY_DIR=../policies/$policy"
    done
}

firmware_hint() {
    echo "mend the error shown in the log, then try again"
}

# ---- mps2 ----

mps2_text() {
    echo "build MicroPython with lifeboat for an Arm Cortex-M3, for tests (half a minute)"
}

mps2_key() {
    source_key
    (
        cd "$LIFEBOAT_ROOT"
        find firmware boards/mps2_an385 tests/conformance tests/fakes tests/sim \
            host_tools/lifeboat_host/pico/sdcard.py -name __pycache__ -prune \
            -o -type f -printf '%p %T@\n' | sort | cksum
    )
}

mps2_there() {
    [ -f "$LIFEBOAT_CACHE/mps2_an385/firmware.elf" ]
}

mps2_do() {
    port=$(readlink -e "$LIFEBOAT_CACHE/micropython")/ports/qemu
    board=$LIFEBOAT_ROOT/boards/mps2_an385
    built=$LIFEBOAT_CACHE/mps2_an385/build
    # Make notices changed flags as little as a frozen file that came or went.
    [ -z "$(find "$board/mpconfigboard.mk" -newer "$built/firmware.elf")" ] || rm -rf "$built"
    mkdir -p "$built"
    rm -f "$built/frozen_content.c"
    make_in "$port" mps2_an385/build BOARD=MPS2_AN385 CROSS_COMPILE=arm-none-eabi- \
        "BOARD_DIR=$(realpath --relative-to="$port" "$board")"
    cp "$built/firmware.elf" "$LIFEBOAT_CACHE/mps2_an385/firmware.elf"
}

mps2_hint() {
    firmware_hint
}

# ---- payload ----

payload_text() {
    echo "fetch real firmware to protect in the demo (package u-boot-qemu)"
}

payload_key() {
    echo u-boot-qemu
}

payload_there() {
    [ -f "$LIFEBOAT_CACHE/payload/os.bin" ]
}

# U-Boot for QEMU's boards, all of them one after the other: some 10 MB of what operating
# system images are made of.
payload_do() {
    choose_suite
    rm -rf "$LIFEBOAT_CACHE/payload" "$LIFEBOAT_CACHE/fetch"
    mkdir "$LIFEBOAT_CACHE/payload" "$LIFEBOAT_CACHE/fetch"
    cd "$LIFEBOAT_CACHE/fetch"
    private_apt apt-get -q download u-boot-qemu
    dpkg-deb -x u-boot-qemu_*.deb "$LIFEBOAT_CACHE/payload"
    find "$LIFEBOAT_CACHE/payload/usr/lib/u-boot" -type f -print0 \
        | LC_ALL=C sort -z | xargs -0 cat >os.bin
    [ "$(stat -c %s os.bin)" -ge 7000000 ]
    mv os.bin "$LIFEBOAT_CACHE/payload/os.bin"
}

payload_hint() {
    echo "check the network and the machine's apt sources"
}

# ---- monitoring ----

monitoring_text() {
    echo "fetch a monitoring system for tests (packages prometheus, prometheus-node-exporter; 25 MB)"
}

monitoring_key() {
    echo prometheus prometheus-node-exporter
}

monitoring_there() {
    [ -x "$LIFEBOAT_CACHE/monitoring/usr/bin/prometheus" ]
}

# Unpacked, not installed: the packages would start services on this machine.
monitoring_do() {
    rm -rf "$LIFEBOAT_CACHE/monitoring"
    mkdir "$LIFEBOAT_CACHE/monitoring"
    cd "$LIFEBOAT_CACHE/monitoring"
    apt-get -q download prometheus prometheus-node-exporter && for package in *.deb; do
        dpkg-deb -x "$package" . || return 1
    done && rm ./*.deb && usr/bin/prometheus --version
}

monitoring_hint() {
    echo "run apt-get update as root; tests do without it, and say so"
}

# For tests: what can not be had leaves out the tests that need it, and those say so.
set_up_monitoring_for_tests() {
    (set_up monitoring) || true
}

# ---- mip ----

mip_text() {
    echo "fetch Debian's build of MicroPython with mip, for tests (package micropython, 4 MB)"
}

mip_key() {
    echo micropython
}

mip_there() {
    [ -x "$LIFEBOAT_CACHE/mip/micropython" ]
}

# With the libraries that it was built for, which may be newer than this machine's.
mip_do() {
    mip=$LIFEBOAT_CACHE/mip
    choose_suite && rm -rf "$mip" "$LIFEBOAT_CACHE/fetch" &&
        mkdir "$mip" "$LIFEBOAT_CACHE/fetch" && cd "$LIFEBOAT_CACHE/fetch" || return 1
    packages=$(private_apt apt-cache depends --recurse --no-recommends --no-suggests \
        --no-conflicts --no-breaks --no-replaces --no-enhances micropython | grep '^[a-z]')
    # shellcheck disable=SC2086
    private_apt apt-get -q download $packages || return 1
    for package in *.deb; do
        dpkg-deb -x "$package" "$mip" || return 1
    done
    {
        echo '#!/bin/sh'
        echo exec "$mip"/usr/lib*/ld-linux*.so.* --library-path "$mip"/usr/lib/*-linux-gnu* \
            "$mip/usr/bin/micropython" '"$@"'
    } >"$mip/micropython" && chmod +x "$mip/micropython" && "$mip/micropython" -c 'import mip'
}

mip_hint() {
    micropython_hint
    echo "tests do without it, and say so"
}

set_up_mip_for_tests() {
    (set_up mip) || true
}

# ---- ansible ----

ansible_text() {
    echo "make a Python environment with Ansible, for tests of the role (30 MB)"
}

ansible_key() {
    sum_of "$LIFEBOAT_ROOT/host_tools/requirements-ansible.txt"
}

ansible_there() {
    [ -x "$LIFEBOAT_CACHE/ansible/bin/ansible-playbook" ]
}

# Apart: none of its many packages is to rule the versions of ours.
ansible_do() {
    "$LIFEBOAT_CACHE/venv/bin/python3" -m venv --clear "$LIFEBOAT_CACHE/ansible" &&
        "$LIFEBOAT_CACHE/ansible/bin/python3" -m pip install --require-hashes \
            --requirement host_tools/requirements-ansible.txt
}

ansible_hint() {
    echo "Ansible wants Python 3.11 or newer; tests do without it, and say so"
}

set_up_ansible_for_tests() {
    (set_up ansible) || true
}

# ---- fuzzer ----

fuzzer_text() {
    echo "install a fuzzer into the Python environment (atheris)"
}

fuzzer_key() {
    venv_key
    sum_of "$LIFEBOAT_ROOT/host_tools/requirements-fuzz.txt"
}

fuzzer_there() {
    "$LIFEBOAT_CACHE/venv/bin/python3" -c '
import importlib.util, sys
sys.exit(importlib.util.find_spec("atheris") is None)'
}

fuzzer_do() {
    pip_locked fuzz --only-binary atheris && fuzzer_there
}

fuzzer_hint() {
    echo "the fuzzer has wheels for Linux on x86_64 and Python 3.11 to 3.13 only; tests do without" \
        "it, and say so"
}

set_up_fuzzer_for_tests() {
    (set_up fuzzer) || true
}

# ---- emulator, pico_sources, pico ----

# Whether the emulator of the Raspberry Pi Pico can run here: its wheels are for x86_64 and Python
# 3.11 or newer.
pico_possible() {
    [ "$(uname -m)" = x86_64 ] && "$LIFEBOAT_CACHE/venv/bin/python3" -c '
import sys
sys.exit(sys.version_info < (3, 11))'
}

# For tests: what can not be had leaves out the tests that need it, and those say so.
set_up_pico_for_tests() {
    if pico_possible && (set_up emulator); then
        set_up pico_packages pico_sources pico
    fi
}

emulator_text() {
    echo "install an emulator of the Raspberry Pi Pico into the Python environment (rp2040py)"
}

emulator_key() {
    venv_key
    sum_of "$LIFEBOAT_ROOT/host_tools/requirements-pico.txt"
}

emulator_there() {
    "$LIFEBOAT_CACHE/venv/bin/python3" -c '
import importlib.util, sys
sys.exit(importlib.util.find_spec("rp2040py") is None)'
}

# Wheels only: from source it is as slow as it is long to build. One command, see
# set_up_pico_for_tests.
emulator_do() {
    pip_locked pico --only-binary rp2040py && emulator_there
}

emulator_hint() {
    echo "the emulator has wheels for Linux on x86_64 and Python 3.11 or newer only; all other" \
        "boards do without it"
}

pico_sources_text() {
    echo "fetch what MicroPython needs for a Pico (pico-sdk-source, tinyusb-source, mbedtls; 20 MB)"
}

# The libraries go into a copy of MicroPython's source.
pico_sources_key() {
    source_key
    echo pico-sdk-source tinyusb-source mbedtls
}

pico_sources_there() {
    [ -f "$LIFEBOAT_CACHE/pico/micropython/lib/mbedtls/include/mbedtls/version.h" ]
}

pico_sources_do() {
    pico=$LIFEBOAT_CACHE/pico
    rm -rf "$pico" "$LIFEBOAT_CACHE/fetch"
    mkdir "$pico" "$LIFEBOAT_CACHE/fetch"
    choose_suite
    cd "$LIFEBOAT_CACHE/fetch"
    private_apt apt-get -q download pico-sdk-source tinyusb-source
    private_apt apt-get -q source --download-only mbedtls
    for package in *.deb; do
        dpkg-deb -x "$package" "$pico"
    done
    mkdir "$pico/mbedtls" "$pico/tree"
    tar -xaf mbedtls_*.orig.tar.* -C "$pico/mbedtls" --strip-components=1
    cp -RL "$LIFEBOAT_CACHE/micropython/." "$pico/tree"
    for library in "$pico/usr/src/pico-sdk" "$pico/usr/src/tinyusb" "$pico/mbedtls"; do
        place=$pico/tree/lib/$(basename "$library")
        rm -rf "$place"
        mv "$library" "$place"
    done
    [ -f "$pico/tree/lib/pico-sdk/pico_sdk_init.cmake" ]
    [ -f "$pico/tree/lib/tinyusb/src/tusb.h" ]
    mv "$pico/tree" "$pico/micropython"
}

pico_sources_hint() {
    micropython_hint
}

pico_text() {
    echo "build MicroPython with lifeboat for a Raspberry Pi Pico (three minutes)"
}

pico_key() {
    pico_sources_key
    (
        cd "$LIFEBOAT_ROOT"
        find firmware boards/rp2_sd boards/_boot.py -name __pycache__ -prune \
            -o -type f ! -name '*.md' -printf '%p %T@\n' | sort | cksum
    )
}

pico_there() {
    [ -f "$LIFEBOAT_CACHE/boards/rp2_sd-unsigned/firmware.bin" ]
}

pico_do() {
    tree=$LIFEBOAT_CACHE/pico/micropython
    built=$LIFEBOAT_CACHE/pico/build
    # The SDK links with libstdc++, and takes nothing from it.
    mkdir -p "$LIFEBOAT_CACHE/pico/stub"
    rm -f "$LIFEBOAT_CACHE/pico/stub/libstdc++.a"
    arm-none-eabi-ar rc "$LIFEBOAT_CACHE/pico/stub/libstdc++.a"
    # Nothing notices that a frozen file came or went.
    rm -f "$built/frozen_content.c"
    export GIT_CEILING_DIRECTORIES="$LIFEBOAT_CACHE"
    flags="-mcpu=cortex-m0plus -mthumb -DPICO_CXX_DISABLE_ALLOCATION_OVERRIDES=1"
    cmake -S "$tree/ports/rp2" -B "$built" -G Ninja \
        -DMICROPY_BOARD=rp2_sd "-DMICROPY_BOARD_DIR=$LIFEBOAT_ROOT/boards/rp2_sd" \
        "-DMICROPY_LIB_DIR=$tree" -DPICO_NO_PICOTOOL=1 -DPICO_BUILD_DOCS=0 \
        "-DCMAKE_CXX_FLAGS=$flags -L../stub"
    ninja -C "$built" -j2
    mkdir -p "$LIFEBOAT_CACHE/boards/rp2_sd-unsigned"
    cp "$built/firmware.bin" "$LIFEBOAT_CACHE/boards/rp2_sd-unsigned/firmware.bin"
}

pico_hint() {
    firmware_hint
}
