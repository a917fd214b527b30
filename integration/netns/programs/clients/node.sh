# fetch: with undici's EnvHttpProxyAgent, and without any code where Node.js itself looks at the variables (24, 22.21).
eval "$("$LANEWAY" env)"
export NODE_EXTRA_CA_CERTS="$CA" NODE_PATH="$MODULES"
cat >fetch.js <<'JS'
(async () => {
  if (process.argv[2] === 'agent') {
    const undici = require('undici');
    undici.setGlobalDispatcher(new undici.EnvHttpProxyAgent());
    globalThis.fetch = undici.fetch;
  }
  for (const scheme of ['http', 'https']) {
    const answer = await fetch(`${scheme}://${process.env.SITE}/hello`);
    require('assert').equal(await answer.text(), `hello from ${process.env.SITE}\n`);
  }
})().catch((error) => { console.error(error); process.exit(1); });
JS
node fetch.js agent
case "$(node --version)" in
v2[4-9].* | v[3-9]?.*) node --disable-warning=ExperimentalWarning fetch.js ;;
*) echo "note: $(node --version) has no NODE_USE_ENV_PROXY; only undici's agent was tried" ;;
esac
