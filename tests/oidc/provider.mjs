// A certified OpenID provider (oidc-provider) on loopback, for tests. Run: node provider.mjs MODULES SETTINGS.json
//
// Its settings name the port, the JWK set with private keys, the clients, and the accounts with their claims. Whoever is
// named in `login_hint` is signed in without being asked: tests play the browser.
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, file] = process.argv.slice(2);
const { Provider } = await import(pathToFileURL(resolve(modules, 'oidc-provider/lib/index.js')).href);
const { port, jwks, clients, accounts } = JSON.parse(readFileSync(file, 'utf8'));
const issuer = `http://127.0.0.1:${port}`;
const told = [...new Set(Object.values(accounts).flatMap((account) => Object.keys(account.claims)))];

const provider = new Provider(issuer, {
  jwks,
  clients,
  claims: { openid: ['sub', 'acr', ...told] },
  conformIdTokenClaims: false,
  findAccount: (_ctx, id) => accounts[id] && { accountId: id, claims: () => ({ sub: id, ...accounts[id].claims }) },
  acrValues: ['level:1', 'level:2', 'level:3'],
  cookies: { keys: ['only-for-tests'] },
  features: { devInteractions: { enabled: false }, rpInitiatedLogout: { enabled: true } },
  interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
  pkce: { required: () => true },
  ttl: { AccessToken: 600, AuthorizationCode: 60, Grant: 600, IdToken: 600, Interaction: 600, Session: 600 },
});

provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith('/interaction/')) {
    await next();
    return;
  }
  const { prompt, params, session } = await provider.interactionDetails(ctx.req, ctx.res);
  ctx.respond = false;
  let result;
  if (prompt.name === 'login') {
    const account = accounts[params.login_hint];
    result = account
      ? { login: { accountId: params.login_hint, acr: account.acr } }
      : { error: 'access_denied', error_description: 'nobody of that name' };
  } else {
    const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    grant.addOIDCScope('openid');
    result = { consent: { grantId: await grant.save() } };
  }
  await provider.interactionFinished(ctx.req, ctx.res, result, { mergeWithLastSubmission: true });
});

provider.on('server_error', (_ctx, error) => console.error(error));
provider.listen(port, '127.0.0.1', () => console.log('ready'));
