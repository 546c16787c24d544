import hashlib
import http.server
import threading

import pytest
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import HTTPURLHandler

from gn_det.checkpoint import WeightsError
from gn_det.checkpoint.files import is_url, local_file, parse_path

CONTENT = b"weights" * 100
SHA = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve CONTENT under any name; "short" ends too early. Returns its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if "missing" in self.path:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: 100 if "short" in self.path else None])

        def log_message(self, *args):
            pass

    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def _cached(tmp_path):
    found = (tmp_path / "cache").rglob("*")
    return [p.name for p in found if p.is_file() and p.suffix not in (".lock",)]


def test_download_with_the_right_digits(server, tmp_path):
    name = f"resnet50-{SHA[:8]}.pth"
    path = local_file(f"{server}/a/{name}")
    with open(path, "rb") as f:
        assert f.read() == CONTENT
    assert _cached(tmp_path) == [name]
    assert local_file(f"{server}/a/{name}") == path


@pytest.mark.parametrize("name", ["resnet50-01234567.pth", "resnet50-01234567.pth.tar"])
def test_download_with_other_digits_is_removed(name, server, tmp_path):
    with pytest.raises(WeightsError, match=f"starts with {SHA[:8]}, not 01234567. The copy was"):
        local_file(f"{server}/b/{name}")
    assert _cached(tmp_path) == []


def test_digits_of_detectron2_are_no_sha(server):
    local_file(f"{server}/c/model_final_f10217.pkl")


def test_recorded_digest(server, tmp_path):
    url = f"{server}/d/any.pkl"
    local_file(url, SHA)
    with pytest.raises(WeightsError, match="damaged or another file"):
        local_file(url, OTHER)
    assert _cached(tmp_path) == []


@pytest.mark.parametrize("name", ["short.pkl", "missing.pkl"])
def test_failed_downloads_leave_nothing(name, server, tmp_path):
    with pytest.raises(WeightsError, match=f"{name}: it cannot be downloaded"):
        local_file(f"{server}/e/{name}")
    assert _cached(tmp_path) == []


def test_detectron2s_own_urls(monkeypatch, tmp_path):
    fetched = []

    def fake(self, path, **kwargs):
        fetched.append(path)
        target = tmp_path / "R-50-GN.pkl"
        target.write_bytes(CONTENT)
        return str(target)

    monkeypatch.setattr(HTTPURLHandler, "_get_local_path", fake)
    local_file("catalog://ImageNetPretrained/FAIR/R-50-GN")
    local_file("detectron2://ImageNetPretrained/MSRA/R-50.pkl")
    prefix = "https://dl.fbaipublicfiles.com"
    assert fetched == [
        f"{prefix}/detectron/ImageNetPretrained/47261647/R-50-GN.pkl",
        f"{prefix}/detectron2/ImageNetPretrained/MSRA/R-50.pkl",
    ]


@pytest.mark.parametrize("path", ["catalog://ImageNetPretrained/FAIR/R-51-GN", "catalog://x"])
def test_no_such_entry(path):
    with pytest.raises(WeightsError, match=f"{path}: there is no such entry"):
        local_file(path)


@pytest.mark.parametrize("path", ["nobody://w.pth", "gn_det://w.pth", "file:///w.pth"])
def test_no_handler(path):
    scheme = path.partition("/")[0]
    with pytest.raises(WeightsError, match=f"no handler of {scheme}// is registered"):
        local_file(path)


def test_local_files(tmp_path):
    path = tmp_path / "resnet50-01234567.pth"
    path.write_bytes(CONTENT)
    # a file of the user's own: only a digest that is asked for counts, and it stays
    assert local_file(str(path)) == str(path)
    assert local_file(str(path), SHA) == str(path)
    with pytest.raises(WeightsError, match="damaged or another file"):
        local_file(str(path), OTHER)
    assert path.exists()


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pkl' does not exist"):
        local_file(str(tmp_path / "nowhere.pkl"))
    with pytest.raises(FileNotFoundError, match="is a folder"):
        local_file(str(tmp_path))


@pytest.mark.parametrize(
    ("path", "parsed"),
    [
        ("a/b.pkl", ("a/b.pkl", "", False)),
        ("a/b.pkl?matching_heuristics=True", ("a/b.pkl", "", True)),
        ("a/b.pkl?matching_heuristics=False", ("a/b.pkl", "", False)),
        ("https://x/b.pkl?key=1", ("https://x/b.pkl?key=1", "", False)),
        (f"https://x/b.pkl#sha256={SHA}", ("https://x/b.pkl", SHA, False)),
        (f"b.pkl#sha256={SHA.upper()}", ("b.pkl", SHA, False)),
        ("runs#3/b.pkl", ("runs#3/b.pkl", "", False)),
    ],
)
def test_parse_path(path, parsed):
    assert parse_path(path) == parsed


@pytest.mark.parametrize("path", ["https://x/b.pkl#md5=0", "b.pkl#sha256=12"])
def test_wrong_fragment(path):
    with pytest.raises(WeightsError, match="after # belongs sha256="):
        parse_path(path)


def test_is_url():
    assert is_url("catalog://x")
    assert not is_url("/a/b")


def test_a_file_that_a_handler_of_ones_own_hands_out_stays(tmp_path, monkeypatch):
    original = tmp_path / "r50.pkl"
    original.write_bytes(b"no weights")
    monkeypatch.setattr(PathManager, "get_local_path", lambda url: str(original))
    with pytest.raises(WeightsError, match="SHA-256") as raised:
        local_file("lab://r50.pkl", "0" * 64)
    assert "removed" not in str(raised.value)
    assert original.exists()


def test_a_handler_of_the_users_own(lab):
    (lab / "w.pth").write_bytes(b"x")
    assert local_file("lab://w.pth") == str(lab / "w.pth")
    with pytest.raises(WeightsError, match="what it leads to, .*, is no file"):
        local_file("lab://nothing.pth")


def test_a_handler_that_fails(monkeypatch):
    def fail(path):
        raise ArithmeticError("bucket\nis gone")

    monkeypatch.setattr(PathManager, "get_local_path", fail)
    with pytest.raises(
        WeightsError, match=r"^lab://w: its handler raised ArithmeticError: bucket\\n"
    ):
        local_file("lab://w")


def test_a_handler_whose_addresses_look_like_paths(tmp_path, monkeypatch):
    path = tmp_path / "w.pth"
    path.write_bytes(b"x")
    monkeypatch.setattr(PathManager, "get_local_path", lambda url: str(path))
    assert local_file("mount/w.pth") == str(path)
