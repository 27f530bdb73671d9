"""Files appear whole or not at all."""

import os
import subprocess
import sys
import tempfile
import textwrap

import pytest

from zscgan_tf import atomic_files
from zscgan_tf.errors import UserError

ROOT = os.path.dirname(os.path.dirname(__file__))


def test_writes_and_refuses_to_overwrite(tmp_path):
    path = tmp_path / 'a.tflite'
    atomic_files.write_atomically(path, b'one')
    with pytest.raises(UserError, match='--overwrite'):
        atomic_files.write_atomically(path, b'two')
    assert path.read_bytes() == b'one'
    atomic_files.write_atomically(str(path), b'two', overwrite=True)
    assert path.read_bytes() == b'two'
    assert os.listdir(tmp_path) == ['a.tflite']


def test_file_name_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atomic_files.check_output('a.tflite', overwrite=False)
    atomic_files.write_atomically('a.tflite', b'one')
    assert (tmp_path / 'a.tflite').read_bytes() == b'one'


def test_usual_permissions_and_links(tmp_path):
    target, link = tmp_path / 'target', tmp_path / 'link'
    (tmp_path / 'plain').write_bytes(b'')
    atomic_files.write_atomically(target, b'one')
    assert target.stat().st_mode == (tmp_path / 'plain').stat().st_mode
    link.symlink_to(target)
    atomic_files.write_atomically(link, b'two', overwrite=True)
    assert link.is_symlink()
    assert target.read_bytes() == b'two'


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('missing/a.tflite', 'does not exist'),
        ('folder', 'is a folder'),
        ('folder/', 'is a folder'),
        ('file/a.tflite', 'does not exist'),
        ('there.tflite', '--overwrite'),
    ],
)
def test_check_output(tmp_path, name, message):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').write_bytes(b'')
    (tmp_path / 'there.tflite').write_bytes(b'')
    path = f'{tmp_path}/{name}'
    with pytest.raises(UserError) as caught:
        atomic_files.check_output(path, overwrite=False)
    assert message in str(caught.value)
    assert path in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ['file', 'folder', 'there.tflite']


def test_a_pipe_or_a_device_is_no_file(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'link').symlink_to('/dev/null')
    for name in ('pipe', 'link'):
        with pytest.raises(UserError, match=f'{name}: is a device or a pipe'):
            atomic_files.check_output(tmp_path / name, overwrite=True)
    assert (tmp_path / 'pipe').is_fifo()


def test_folder_that_cannot_be_written():
    script = """
        import os, sys
        from zscgan_tf import atomic_files
        from zscgan_tf.errors import UserError
        if os.getuid() == 0:  # root may write everywhere
            try:
                os.setuid(65534)
            except OSError:  # a container without other users
                print('cannot be written', sys.argv[1])
                sys.exit()
        try:
            atomic_files.check_output(sys.argv[1], overwrite=False)
        except UserError as error:
            print(error)
    """
    # Not pytest's folder, which other users may not enter.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        out = run(script, f'{folder}/a.tflite').stdout
    assert 'cannot be written' in out
    assert folder in out


@pytest.mark.parametrize('old', [b'old', None])
def test_full_disk(tmp_path, old):
    path = tmp_path / 'a.tflite'
    if old:
        path.write_bytes(old)
    script = """
        import resource, signal, sys
        from zscgan_tf import atomic_files
        from zscgan_tf.errors import UserError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            atomic_files.write_atomically(sys.argv[1], bytes(200_000), overwrite=True)
        except UserError as error:
            print(error)
    """
    out = run(script, path).stdout
    assert out.startswith(f'{path}: could not be written')
    assert out.count('\n') == 1
    assert os.listdir(tmp_path) == (['a.tflite'] if old else [])
    assert not old or path.read_bytes() == old


def test_really_full_file_system(tmp_path):
    if subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', tmp_path], capture_output=True
    ).returncode:
        pytest.skip('file systems cannot be mounted here')
    try:
        path = tmp_path / 'a.tflite'
        path.write_bytes(b'old')
        with pytest.raises(UserError, match='No space left'):
            atomic_files.write_atomically(path, bytes(200_000), overwrite=True)
        assert os.listdir(tmp_path) == ['a.tflite']
        assert path.read_bytes() == b'old'
    finally:
        subprocess.run(['umount', tmp_path], check=True)


def test_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'fsync', interrupted)
    with pytest.raises(KeyboardInterrupt):
        atomic_files.write_atomically(tmp_path / 'a.tflite', b'one')
    assert os.listdir(tmp_path) == []


def run(script, *args):
    return subprocess.run(
        [sys.executable, '-c', textwrap.dedent(script), *map(str, args)],
        env={**os.environ, 'PYTHONPATH': ROOT},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture(scope='session')
def dead_pid():
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    return process.pid


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path, dead_pid):
    path = tmp_path / 'a.tflite'
    kept = [
        f'a.tflite.{os.getpid()}.partial',  # of one that lives
        'a.tflite.1.partial',  # of another user's
        f'b.tflite.{dead_pid}.partial',
        f'a-tflite.{dead_pid}.partial',
        f'a.tflite.{dead_pid}.partial.txt',
        'a.tflite.x.partial',
        'a.tflite.partial',
    ]
    for name in kept:
        (tmp_path / name).write_bytes(b'')
    leftover = tmp_path / f'a.tflite.{dead_pid}.partial'
    leftover.write_bytes(b'half')
    atomic_files.check_output(path)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
    leftover.mkdir()
    atomic_files.check_output(path)
    assert leftover.is_dir()


def test_a_killed_writer_leaves_what_the_next_one_removes(tmp_path):
    path = tmp_path / 'a.tflite'
    script = """
        import os, signal, sys
        from zscgan_tf import atomic_files
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        atomic_files.write_atomically(sys.argv[1], b'one')
    """
    with pytest.raises(subprocess.CalledProcessError):
        run(script, path)
    assert len(os.listdir(tmp_path)) == 1 and not path.exists()
    atomic_files.write_atomically(path, b'two')
    assert os.listdir(tmp_path) == ['a.tflite']


def test_a_link_is_checked_where_it_points(tmp_path):
    link = tmp_path / 'link'
    link.symlink_to(tmp_path / 'missing' / 'target')
    with pytest.raises(UserError, match='missing does not exist: make it, or pass another'):
        atomic_files.check_output(link, overwrite=True)
