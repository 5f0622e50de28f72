#include "engine.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/*
** What a user's SQL may touch, decided while a statement is compiled (and compiled
** again after a change of the schema, so cached statements cannot outlive a rule).
*/

enum { ALLOW = 0, DENY = 1 };

/* SQLite's action codes. */
enum {
  A_CREATE_INDEX = 1, A_CREATE_TABLE, A_CREATE_TEMP_INDEX, A_CREATE_TEMP_TABLE, A_CREATE_TEMP_TRIGGER,
  A_CREATE_TEMP_VIEW, A_CREATE_TRIGGER, A_CREATE_VIEW, A_DELETE, A_DROP_INDEX, A_DROP_TABLE, A_DROP_TEMP_INDEX,
  A_DROP_TEMP_TABLE, A_DROP_TEMP_TRIGGER, A_DROP_TEMP_VIEW, A_DROP_TRIGGER, A_DROP_VIEW, A_INSERT, A_PRAGMA, A_READ,
  A_SELECT, A_TRANSACTION, A_UPDATE, A_ATTACH, A_DETACH, A_ALTER_TABLE, A_REINDEX, A_ANALYZE, A_CREATE_VTABLE,
  A_DROP_VTABLE, A_FUNCTION, A_SAVEPOINT, A_RECURSIVE
};

static int deny(agentd_conn *c, const char *format, const char *what) {
  if (!c->denied[0]) snprintf(c->denied, sizeof c->denied, format, what ? what : "");
  return DENY;
}

static int is_reserved(const char *name) { return name && strncasecmp(name, "agentd_", 7) == 0; }

static int listed(const char *const *list, const char *name) {
  for (; *list; list++)
    if (strcasecmp(*list, name) == 0) return 1;
  return 0;
}

/* Pragmas that only answer, with or without an argument. */
static const char *const asking[] = {
    "table_list", "table_info", "table_xinfo", "index_list", "index_info", "index_xinfo", "foreign_key_list",
    "foreign_key_check", "quick_check", "integrity_check", "data_version", "function_list", "collation_list",
    "compile_options", "pragma_list", "module_list", 0};

/* Pragmas that only answer if they have no argument. */
static const char *const reading[] = {"foreign_keys", "page_count", "page_size", "freelist_count", "encoding",
                                      "schema_version", "user_version", "defer_foreign_keys", "max_page_count",
                                      "recursive_triggers", 0};

/* Pragmas whose effect is part of the transaction or ends with it. */
static const char *const writing[] = {"user_version", "defer_foreign_keys", "optimize", 0};

static const char *const modules[] = {"fts3", "fts4", "fts5", "fts4aux", "fts5vocab", "rtree", "rtree_i32", 0};

static int authorize_pragma(agentd_conn *c, const char *name, const char *value) {
  if (listed(asking, name)) return ALLOW;
  if (!value && listed(reading, name)) return ALLOW;
  if (listed(writing, name))
    return c->mode == AGENTD_READ ? deny(c, "PRAGMA %s would write", name) : ALLOW;
  return deny(c, "PRAGMA %s is not available to an agent's code", name);
}

/* The tables or other named objects that an action is about: up to two. ANALYZE and
** REINDEX without a name touch all tables, and tell and change nothing. */
static void objects(int action, const char *a3, const char *a4, const char *names[2]) {
  names[0] = names[1] = 0;
  switch (action) {
  case A_CREATE_INDEX: case A_CREATE_TRIGGER: case A_DROP_INDEX: case A_DROP_TRIGGER:
    names[1] = a4; /* the table */
    names[0] = a3;
    break;
  case A_ALTER_TABLE:
    names[0] = a4;
    break;
  case A_CREATE_TABLE: case A_CREATE_VIEW: case A_DELETE: case A_DROP_TABLE: case A_DROP_VIEW: case A_INSERT:
  case A_READ: case A_UPDATE: case A_CREATE_VTABLE: case A_DROP_VTABLE:
    names[0] = a3;
    break;
  }
}

static int writes(int action) {
  switch (action) {
  case A_READ: case A_SELECT: case A_FUNCTION: case A_RECURSIVE: case A_PRAGMA:
    return 0;
  }
  return 1;
}

static int authorize_user(agentd_conn *c, int action, const char *a3, const char *a4) {
  const char *names[2];
  switch (action) {
  case A_ATTACH: return deny(c, "ATTACH is not available: an agent has one database%s", 0);
  case A_DETACH: return deny(c, "DETACH is not available: an agent has one database%s", 0);
  case A_TRANSACTION: case A_SAVEPOINT:
    return deny(c, "transactions cannot be controlled in SQL: all writes of a turn are one transaction%s", 0);
  case A_PRAGMA: return authorize_pragma(c, a3 ? a3 : "", a4);
  case A_FUNCTION:
    if (a4 && (strcasecmp(a4, "load_extension") == 0 || strcasecmp(a4, "fts3_tokenizer") == 0))
      return deny(c, "the function %s is not available to an agent's code", a4);
    return ALLOW;
  case A_CREATE_TEMP_INDEX: case A_CREATE_TEMP_TABLE: case A_CREATE_TEMP_TRIGGER: case A_CREATE_TEMP_VIEW:
    return deny(c, "temporary tables, views and triggers are not available: create an ordinary one%s", 0);
  case A_CREATE_VTABLE:
    if (!a4 || !listed(modules, a4)) return deny(c, "virtual tables of module %s are not available", a4);
    break;
  }
  objects(action, a3, a4, names);
  if (is_reserved(names[0])) return deny(c, "%s belongs to the platform: names that begin with agentd_ are reserved", names[0]);
  if (is_reserved(names[1])) return deny(c, "%s belongs to the platform: names that begin with agentd_ are reserved", names[1]);
  if (c->mode == AGENTD_READ && writes(action)) return deny(c, "the statement would write, and only reading is allowed here%s", 0);
  return ALLOW;
}

int agentd_authorize(void *arg, int action, const char *a3, const char *a4, const char *db, const char *inner) {
  agentd_conn *c = arg;
  (void)db;
  if (action == A_ALTER_TABLE) c->alters = 1;
  if (action == A_PRAGMA || (writes(action) && action != A_INSERT && action != A_UPDATE && action != A_DELETE)) c->ddl = 1;
  if (c->mode != AGENTD_PLATFORM) return authorize_user(c, action, a3, a4);
  /* A trigger or view that a user made must not reach reserved tables through a
  ** statement of the platform. */
  if (inner && !is_reserved(inner)) {
    const char *names[2];
    objects(action, a3, a4, names);
    if (is_reserved(names[0]) || is_reserved(names[1]))
      return deny(c, "%s reaches into tables of the platform", inner);
  }
  return ALLOW;
}
