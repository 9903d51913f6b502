"""Passwords of any characters, in commands, statements and files are masked; variables and references stay."""

from __future__ import annotations

import re
import time

import pytest

from vita.data.curation.personal_data import PersonalData, PersonalDataScanner
from vita.data.curation.secret_values import unquoted_end

SCANNER = PersonalDataScanner(PersonalData())

SECRETS = [
    # The secrets are between « and ».
    "password=«tr0ub4dor&3»",
    "password: «P@ss;w0rd»",
    "password: «P@ss(1)rd/x»",
    "password: «a1b2c3)d4»",
    "(password: «hunter2»)",
    "{user: bob, password: «hunter2»}",
    "password = «Su{mm}er24!»",
    "DB_PASSWORD=«pass&word;x»",
    "Server=db;Password=«a&b1cd»;User Id=bob",
    "https://x.net/?a=1&password=«hunter2»&amp;flag=1",
    'login(user="bob", password="«it\'s4me»")',
    "password = '«a<b>c1»'",
    "mysql --user bob --password «swordfish» shop",
    "tool --password «hunter2» --force",
    "tool --password '«hun ter2»'",
    "docker login -u bob -p «swordfish» reg.io",
    "mysqldump -uroot -p«S3cret» db",
    "mysql -u root -p'«S3cret;x»' db",
    "sshpass -p «swordfish» ssh a@b.example",
    "machine api.net login bob password «swordfish»",
    "machine api.net\n  login bob\n  password «swordfish»\n",
    "CREATE USER 'bob'@'%' IDENTIFIED BY '«swordfish»';",
    "create user scott identified by «tiger»;",
    "ALTER USER x WITH PASSWORD '«swordfish»';",
    "IDENTIFIED WITH mysql_native_password BY '«sword fish»'",
    "curl -u bob:«swordfish» https://x.net",
    "curl -X GET https://x.net/a --user 'bob:«s wx»'",
    "password:\n  «hunter2»\nx: 1",
    '"password":\n   "«hunter2»",',
    "password: |\n  «hunter2»\n",
    "postgres://bob:«p@ss»@host/x",
    "keytool -storepass «changeit» -x",
    "${DB_PASSWORD:-«hunter2»}",
    "echo '«swordfish»' | sudo -S ls",
    'echo "root:«swordfish»" | chpasswd',
    "username bob password 0 «swordfish»",
    "requirepass «swordfish»",
    'password = "«a;b&c[1]{2}»"',
    "password: «k9&Lm;Q2(x)»",
    "export DB_PASSWORD='«a b;c&d»'",
    "Password:\n\n«Hunter2!»",
    "sshpass -p«S3cret» ssh h",
    "redis-cli -h db -a «swordfish» ping",
    "htpasswd -b users bob «Hunter2»",
    r"net use Z: \\srv\share /user:SHOP\bob «swordfish» /persistent:yes",
    r'NET USE \\srv\share /USER:"bob miller" "«sword fish»"',
    r"net use \\srv\share «swordfish» /user:bob",
    r"net.exe use Z: \\10.0.0.8\c$ /u:bob «S3cret!»",
    "net user bob «swordfish» /add",
    "password: («hunter2»)",
    "password: [«hunter2»], x",
    "Passwort = ('«Sommer24!»')",
    'password: "«correct horse battery»"',
    "passphrase = '«correct horse battery staple 42»'",
    '"password":"«river mill bread sells flour!»"',
    'password: "«Correct Horse Battery Staple»"',
    "password: «correct-horse-battery-staple»",
    'passphrase="«Correct-Horse-Battery-Staple-42»"',
    "zip -r -P «swordfish» a.zip b",
    "unzip -P«S3cret» a.zip",
    "7z a -p«swordfish» a.7z b",
    'psk="«hunter2xyz»"',
    "PreSharedKey = «AbCdEf0123456789abcdefghijklmnopqrstuvwxyz1=»",
    '<add key="AdminPassword" value="«Hunter2xyz»" />',
    '<property name="x.password"\n  scope="a" Value="«Hunter2xyz»"/>',
    '{"name": "DB_PASSWORD", "value": "«Hunter2xyz»"}',
    '<setting name="DbPassword" serializeAs="String"><value>«Hunter2xyz»</value></setting>',
]


def mask(text: str) -> str:
    scan = SCANNER([text], [text.encode()]).get(0)
    return text if scan is None else scan.text


@pytest.mark.parametrize("marked", SECRETS)
def test_the_whole_password_is_masked(marked: str) -> None:
    text, masked = re.sub("[«»]", "", marked), re.sub("«.*?»", "<KEY>", marked)
    for before, after in (("", ""), ("a line\n", "\nand more"), ("x " * 300 + "\n", "\n")):
        assert mask(before + text + after) == before + masked + after


@pytest.mark.parametrize(
    "text",
    [
        "password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  3836",
        "password: ${VAR}",
        "password: ${VAR1}",
        "password: ${env:DB_PASS1}",
        'password = os.environ["DB_PASSWORD1"]',
        'password = os.environ.get("DB1")',
        "password: <your password>",
        "password: <your password1>",
        'password="<your-password1>"',
        "password: !Ref DbPassword1",
        "password: !secret db1",
        "https://user:password@host/x",
        '{"url":"https://a.net","logo":{"@type":"ImageObject"}}',
        "https://user:${PASS}@host/x",
        "https://user:<password>@host/x",
        "password = $(cat /run/secret1)",
        "password=`cat x1`",
        "password: {{ db_pass1 }}",
        'password: "{{db_pass1}}"',
        "password = get_password2(user1)",
        "password=hashlib.sha256(x1).hexdigest()",
        "password: z.string().min(8)",
        "password = options.password||config.pw1",
        "#password:hover,#x1:focus{color:#fff0a1}",
        ".pass:hover,.col2 a{}",
        "--password PASSWORD1 ",
        "use --password to set it",
        r"net use Z: \\srv\share /user:bob * /persistent:no",
        r"net use Z: \\srv\share /user:bob /persistent:no",
        r"net use Z: \\srv\share /user:bob %PASSWORD1%",
        "the net user base /adds 5000",
        "password: (optional), password: (8-20), password: [a-zA-Z0-9]{8}, password: [hunter2](https://x.net)",
        "password: (sha256), password: [password1], password = (str1) => str1, password = [user1, user2]",
        'password: "Enter your password", password: "must have eight characters", password: "the word of the day"',
        'password: "Enter Your New Password", password: "Masukkan Kata Sandi Baru", password: "Nova Senha Forte"',
        "password: user-login-form-password, password: my-app-db-secret-name, password: two-short-words",
        '<input name="password" value="Passwort"> <add key="PasswordMinLength" value="hunter2x"/>',
        '{"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db-1", "key": "pw-2x"}}}',
        "zip -P $PASS1 a.zip, zip -P password a.zip, 7z a -pPASSWORD1 x, 7z x a.7z -o/tmp/dir2, key_mgmt=WPA-PSK",
        "psk: &#x3C;Buffer1|string>, password: &lt;string1>",
        'password: "new password", password: "forgot password or login", password: "Mot de passe oublié"',
        "use the --password option.",
        "mysql -u root -p mydb",
        "mysql -u root -p database2",
        "docker run -u 1000:1000 img",
        "sudo -u www mkdir -p /var/x1",
        "ssh -u bob -p 2222",
        "IDENTIFIED BY 'password'",
        "species identified by researchers in 2013",
        "create user groups identified by number",
        "curl -u user:password https://x",
        "curl -u $USER:$PASS https://x",
        "Enter login and password here",
        "the machine has login and password authentication",
        "Password:\nForgot password?",
        "Password:\nLogin",
        "password: %(password1)s",
        "password=%s, password={password1}",
        "password: *default1",
        "password: [REDACTED1]",
        'password = input("x1")',
        "password: process.env.DB_PASS1",
        "password: process.env.DB_PASS1!",
        "password = sys.argv[1]",
        "password = args[2]",
        "password = $_POST['pw1']",
        "password = $row[2]",
        "password: $config->get('x1')",
        "password=@password1, password = :pw1",
        "password: varchar(255)",
        "| password | varchar(255) |",
        "password: Secret<String1>",
        "password = await hash(pw1)",
        "password = self.password1",
        'password = f"{x1}"',
        'password = data["x"][1]',
        "password = (x1+y2)",
        "password=self.cfg[2].pw",
        "password = md5($pass.$salt1)",
        "password: vault:secret/data/db1#pw",
        "password: ref+vault://x1",
        "password: ENC(abc123)",
        'password = "%s1" % x',
        "password: user?.password1",
        "'password' => 'required|min:8'",
        'password: "required|string|min:8|confirmed"',
    ],
)
def test_a_variable_a_reference_or_an_option_of_another_command_stays(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a1&b2;c3 next", "a1&b2;c3"),
        ("a1&user=bob", "a1"),
        ("a1;User Id=bob", "a1"),
        ("a1&amp;user=bob", "a1"),
        ("a1&quot;", "a1"),
        ("a1,user:bob", "a1"),
        ("a1 && make", "a1"),
        ("a(1)[2])", "a(1)[2]"),
        ("a1}b2", "a1}b2"),
        ("a1}.", "a1"),
        ("a1, and", "a1"),
        ("密1，然后", "密1"),
    ],
)
def test_a_value_without_quotes_ends_before_the_next_field(text: str, value: str) -> None:
    assert text[: unquoted_end(text, 0)] == value


def test_a_long_text_of_signs_takes_linear_time() -> None:
    started = time.process_time()
    for text in ("password=" * 20_000, "-p " * 60_000, 'password "' * 20_000, "password:\n" * 20_000, "([{" * 60_000):
        SCANNER([f"passwd {text}"], [f"passwd {text}".encode()])
    assert time.process_time() - started < 10
